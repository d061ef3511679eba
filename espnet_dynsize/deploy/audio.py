"""Audio files, and what a recogniser hears in them."""

from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio
from espnet2.bin.asr_inference import Speech2Text

from espnet_dynsize.core.errors import ConfigError


def read_audio(path: Path) -> tuple[np.ndarray, int]:
    """Samples [N], channels averaged, and the sampling rate.

    Raises:
        ConfigError: the file cannot be read or is empty.
    """
    try:
        samples, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        why = error.error_string
        raise ConfigError(f"audio {path} cannot be read: {why}") from error
    if len(samples) == 0:
        raise ConfigError(f"audio {path} has no samples.")
    return samples.mean(axis=1), rate


def resampled(samples: np.ndarray, own_rate: int, rate: int) -> torch.Tensor:
    """Samples [N] at `own_rate` as a tensor at `rate`."""
    speech = torch.from_numpy(samples)
    if own_rate == rate:
        return speech
    return torchaudio.functional.resample(speech, own_rate, rate)


def transcribe(
    recogniser: Speech2Text, samples: np.ndarray, own_rate: int, rate: int
) -> str:
    """Text of samples [N] at `own_rate`, resampled to `rate`."""
    speech = resampled(samples, own_rate, rate)
    return (recogniser(speech.numpy())[0][0] or "").strip()
