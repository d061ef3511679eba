"""ESPnet's `Speech2Text` that looks at its input before it computes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.asr.frontend.windowing import SlidingWindow
from espnet2.asr_transducer.utils import TooShortUttError as TooShortForTransducer
from espnet2.bin.asr_inference import Speech2Text
from espnet2.layers.stft import Stft
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import (
    TooShortUttError,
)

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy.audio import check_finite, check_rate, transcribe
from espnet_dynsize.deploy.experiment import sampling_rate
from espnet_dynsize.encoder import front_end
from espnet_dynsize.encoder.kaldi import KaldiFrontend
from espnet_dynsize.runtime import LONGEST

FEATURES_PER_SECOND = 100  # as ESPnet's and Kaldi's are

# Integer type → (its zero, its full scale), as soundfile reads such files
FULL_SCALE = {
    torch.uint8: (128, 2**7),
    torch.int8: (0, 2**7),
    torch.int16: (0, 2**15),
    torch.int32: (0, 2**31),
}


class Checked:
    """Mixin for a `Speech2Text` that refuses what it would make nonsense of.

    Audio is a numpy array or a torch tensor [N] (or [N, 1]) at the sampling rate of
    training: floats with full scale 1, or integers (8-bit, int16, int32), which are
    scaled to that. A model that was trained on extracted features takes these, float
    [L, D]. A list of such inputs is recognised as one batch.

    Attributes:
        rate: Samples a second of the audio that it takes.
        features: D of the features that it takes; None if it takes audio.
    """

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        config = vars(self.asr_train_args)
        self.rate = sampling_rate(config)
        self.features = features_of(config)

    def __call__(self, speech):
        """Recognise.

        Args:
            speech: Audio [N] or features [L, D], or a list of these.

        Returns:
            What ESPnet's `Speech2Text` does: `[(text, tokens, ids, hypothesis), …]`,
            for a list one such list for each.

        Raises:
            ConfigError: it is no input for this model, or too short or long for it.
        """
        if not isinstance(speech, list | tuple):
            return self._recognise(self.checked(speech))
        checked = [self.checked(one) for one in speech]
        if self.features is not None:  # ESPnet's batches are of audio only
            return [self._recognise(one) for one in checked]
        return self._recognise(checked) if checked else []

    def _recognise(self, speech):
        with too_short_said():
            return super().__call__(speech)

    def transcribe(self, samples: np.ndarray | torch.Tensor, rate: int) -> str:
        """Text of audio of any length and sampling rate.

        It is cut at silences into pieces of at most 30 s, whose texts are joined.

        Args:
            samples: [N] or [N, 1], floats or integers.
            rate: Samples a second.

        Raises:
            ConfigError: it cannot be recognised, or the model takes features.
        """
        self.check_takes_audio()
        check_rate(rate)
        audio = checked_audio(samples).float().cpu().numpy()
        return transcribe(self, audio, int(rate), self.rate)

    def check_takes_audio(self) -> None:
        """Refuse a model that was trained on extracted features.

        Raises:
            ConfigError: this is one.
        """
        check_takes_audio(self.features)

    def checked(self, speech: object) -> torch.Tensor:
        """One input as the model takes it, see `checked_input`."""
        return checked_input(speech, self.asr_model, self.rate, self.features)


class Recogniser(Checked, Speech2Text):
    """ESPnet's `Speech2Text` that looks at its input."""

    taken = ()


def features_of(config: Mapping) -> int | None:
    """D of the features that a config's model takes; None if it takes audio."""
    # Encoders that take audio without a front-end (Whisper's) have input_size 1.
    size = config.get("input_size")
    return None if size in (None, 1) else size


def check_takes_audio(features: int | None) -> None:
    """Refuse a model that was trained on extracted features.

    Args:
        features: See `features_of`.

    Raises:
        ConfigError: it was.
    """
    if features is not None:
        raise ConfigError(
            f"this model takes features [frames, {features}], not audio: its config "
            f"has frontend: null and input_size: {features}; extract them as for its "
            "training and call it from Python."
        )


def checked_input(
    speech: object, model: ESPnetASRModel, rate: int, features: int | None
) -> torch.Tensor:
    """One input as a model takes it: audio [N] or features [L, D], floats.

    Args:
        speech: What the user gave.
        model: What takes it.
        rate: Samples a second of audio.
        features: D, see `features_of`.

    Raises:
        ConfigError: it is not one.
    """
    if features is not None:
        speech = checked_features(speech, features)
        least, most = least_frames(model), LONGEST * FEATURES_PER_SECOND
        _check_length(len(speech), least, most, "frames", None)
        return speech
    speech = checked_audio(speech)
    _check_length(len(speech), least_samples(model), LONGEST * rate, "samples", rate)
    return speech


@contextmanager
def too_short_said() -> Iterator[None]:
    """Say of input that is too short what the encoder says of it.

    Raises:
        ConfigError: it is.
    """
    try:
        yield
    except (TooShortUttError, TooShortForTransducer) as error:
        raise ConfigError(
            f"speech is too short: it gives {error.actual_size} frames, and the "
            f"model needs at least {error.limit}."
        ) from error


def checked_audio(speech: object) -> torch.Tensor:
    """Audio [N] or [N, 1] as floats [N] with full scale 1.

    Raises:
        ConfigError: wrong kind, type or shape, empty, or samples that are not finite.
    """
    speech = _tensor(speech)
    shape = list(speech.shape)
    if speech.ndim == 2 and speech.size(1) == 1:
        speech = speech.squeeze(1)
    if speech.ndim != 1:
        raise ConfigError(
            f"speech of shape {shape} must be [samples]: one channel of one recording; "
            "average or choose channels first."
        )
    if len(speech) == 0:
        raise ConfigError("speech is empty: it must have samples.")
    speech = _scaled(speech)
    _check_values(speech)
    return speech


def checked_features(speech: object, size: int) -> torch.Tensor:
    """Features [L, D] as floats.

    Args:
        speech: What the user gave.
        size: D.

    Raises:
        ConfigError: wrong kind, type or shape, or values that are not finite.
    """
    speech = _tensor(speech)
    if speech.ndim != 2 or speech.size(1) != size or not speech.is_floating_point():
        raise ConfigError(
            f"speech of shape {list(speech.shape)} and type {_type_name(speech)} must "
            f"be float features [frames, {size}]: this model takes features, not audio "
            f"(its config has frontend: null and input_size: {size})."
        )
    _check_values(speech)
    return speech


def _tensor(speech: object) -> torch.Tensor:
    """An array or a tensor of real numbers, as a tensor."""
    if isinstance(speech, np.ndarray):
        if speech.dtype.kind not in "iuf":
            raise ConfigError(_wrong_type(speech.dtype))
        # torch takes neither other byte orders and strides nor long doubles.
        dtype = speech.dtype.newbyteorder("=")
        dtype = np.float64 if dtype == np.longdouble else dtype
        return torch.tensor(np.ascontiguousarray(speech, dtype).reshape(speech.shape))
    if not isinstance(speech, torch.Tensor):
        raise ConfigError(
            f"speech is a {type(speech).__name__}; it must be a numpy array or a torch "
            "tensor (files: espnet-dynsize transcribe, or soundfile.read)."
        )
    if speech.is_complex() or speech.dtype == torch.bool:
        raise ConfigError(_wrong_type(speech.dtype))
    if speech.layout is not torch.strided or speech.is_meta:
        raise ConfigError("speech must be a dense tensor with values in memory.")
    return speech.detach()


def _scaled(speech: torch.Tensor) -> torch.Tensor:
    """Integers as floats in [-1, 1); floats as they are."""
    if speech.is_floating_point():
        return speech
    if speech.dtype not in FULL_SCALE:
        raise ConfigError(_wrong_type(speech.dtype))
    zero, full = FULL_SCALE[speech.dtype]
    return (speech.float() - zero) / full


def _wrong_type(dtype: object) -> str:
    return (
        f"speech has type {str(dtype).removeprefix('torch.')}; it must be floats with "
        "full scale 1, or int8, uint8, int16 or int32, which are scaled by their range."
    )


def _type_name(speech: torch.Tensor) -> str:
    return str(speech.dtype).removeprefix("torch.")


def _check_values(speech: torch.Tensor) -> None:
    try:
        check_finite(speech)
    except ConfigError as error:
        raise ConfigError(f"speech {error}") from error


def _check_length(
    length: int, least: int, most: int, unit: str, rate: int | None
) -> None:
    """Refuse what is shorter than `least` or longer than `most` units."""

    def text(count: int) -> str:
        name = unit.removesuffix("s") if count == 1 else unit
        return f"{count} {name}" + (f" ({1000 * count / rate:.4g} ms)" if rate else "")

    if length < least:
        raise ConfigError(
            f"speech is too short: it has {text(length)}, and the model needs at least "
            f"{text(least)}."
        )
    if length > most:
        advice = (
            "recogniser.transcribe(speech, rate) and `espnet-dynsize transcribe` cut "
            "audio at silences"
            if rate
            else "cut it at silences"
        )
        raise ConfigError(
            f"speech is too long to be recognised at once: it has {length} {unit}, and "
            f"at most {most} ({LONGEST} s) are allowed; {advice}."
        )


def least_frames(model: ESPnetASRModel) -> int:
    """The shortest features that the encoder's subsampling takes."""
    return front_end.least_frames(getattr(model.encoder, "embed", None))


def least_samples(model: ESPnetASRModel) -> int:
    """The shortest audio that the model takes; 1 where that is not known."""
    frontend = getattr(model, "frontend", None)
    if isinstance(frontend, KaldiFrontend):
        return frontend.least_samples(least_frames(model))
    # Others may make more frames: their encoder says itself what is too short.
    known = isinstance(frontend, DefaultFrontend | SlidingWindow)
    frames = least_frames(model) if known else 1
    if isinstance(frontend, SlidingWindow):
        return (frames - 1) * frontend.hop_length + frontend.win_length
    modules = frontend.modules() if frontend is not None else []
    stfts = [module for module in modules if isinstance(module, Stft)]
    return max((front_end.stft_samples(stft, frames) for stft in stfts), default=1)
