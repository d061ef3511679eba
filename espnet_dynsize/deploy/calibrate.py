"""Measure the statistics of batch norms anew."""

from collections.abc import Iterable

import torch

from espnet_dynsize.core.errors import ConfigError


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
        ConfigError: there were none.
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
        model.encode(speech[None], torch.tensor([len(speech)]))
        number += 1
    if number == 0:
        raise ConfigError("calibrate: there must be at least one audio file.")
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
        norm.eval()
    return number
