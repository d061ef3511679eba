"""Measure the statistics of batch norms anew."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_dynsize.core.errors import ConfigError, one_line
from espnet_dynsize.deploy.audio import blocks, errors_with, opened, pieces, resampled
from espnet_dynsize.deploy.experiment import sampling_rate
from espnet_dynsize.deploy.recogniser import (
    check_takes_audio,
    checked_input,
    features_of,
    too_short_said,
)


def inputs(
    model: ESPnetASRModel, config: Mapping, files: Sequence[Path]
) -> Iterator[torch.Tensor]:
    """Audio files as a model takes them, one after another, cut at silences.

    Args:
        model: What takes them.
        config: Its config.
        files: Of any length and sampling rate.

    Raises:
        ConfigError: the model takes features; a file cannot be read, or is too short.
    """
    check_takes_audio(features_of(config))
    rate = sampling_rate(config)
    for path in files:
        with errors_with(path), opened(path) as file:
            for piece in pieces(blocks(file), file.samplerate):
                speech = resampled(piece, file.samplerate, rate)
                yield checked_input(speech, model, rate, None)


@torch.no_grad()
def calibrate(model: torch.nn.Module, audio: Iterable[torch.Tensor]) -> int:
    """Replace the running statistics by averages over `audio`.

    A subnet that never trained has other activations than those whose statistics are
    stored (AlphaNet's practice: re-calibrate every subnet before it is evaluated).

    Args:
        model: A cut model; dropout and augmentation stay off.
        audio: Inputs [samples] or [L, D], a batch each; 32 to 64 are enough.

    Returns:
        How many inputs there were.

    Raises:
        ConfigError: there were none, or one is too short.
    """
    model.eval()
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    # Only the norms are in training mode: dropout stays off.
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the average of all batches
        norm.train()
    number = 0
    for speech in audio:
        try:
            with too_short_said():
                model.encode(speech[None], torch.tensor([len(speech)]))
        except ValueError as error:  # of the norms: a single frame has no variance
            raise ConfigError(
                f"calibrate: input {number + 1} cannot be used: {one_line(error)}."
            ) from error
        number += 1
    if number == 0:
        raise ConfigError("calibrate: there must be at least one audio file.")
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
        norm.eval()
    return number
