"""Audio files, and what a recogniser hears in them."""

import os
import select
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np
import soundfile
import torch
import torchaudio

from espnet_dynsize.core.errors import ConfigError, check, printable
from espnet_dynsize.runtime import LOUDEST, pieces

BLOCK_VALUES = 2**20  # read at a time, all channels together
PATIENCE = 10  # seconds until a pipe has its first bytes
LOWEST_RATE, HIGHEST_RATE = 1_000, 1_000_000  # samples a second
FINEST_RATIO = 1_000  # torchaudio's filters are as large as the product of its terms

# ESPnet's `Speech2Text`, or what takes samples [N] and answers alike
Recognise = Callable[[np.ndarray], list]


def read_audio(path: Path) -> tuple[np.ndarray, int]:
    """Samples [N], channels averaged, and the sampling rate.

    Raises:
        ConfigError: the file cannot be read, is empty, or has a sample that is not
            finite.
    """
    # Grows in place: to join blocks would need the memory twice.
    joined = bytearray()
    with errors_with(path), opened(path) as file:
        for block in blocks(file):
            joined += block.tobytes()
        return np.frombuffer(joined, np.float32), file.samplerate


@contextmanager
def errors_with(path: Path) -> Iterator[None]:
    """Every `ConfigError` from inside begins with the path of the audio file."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{shown(path)}: {error}") from error


def shown(path: Path) -> str:
    """The path as text that can be printed on one line, whatever bytes it has."""
    return printable(os.fsencode(path).decode(errors="replace"))


class _Forward(soundfile.SoundFile):
    """A file that is read from its beginning to its end.

    soundfile seeks to where it is after every read. In Opus that is not exact: blocks
    would differ from the file read at once.
    """

    def seekable(self) -> bool:
        return False


@contextmanager
def opened(path: Path) -> Iterator[soundfile.SoundFile]:
    """An audio file, to be read forward.

    Raises:
        ConfigError: it cannot be opened or, later, read; without the path.
    """
    _check_path(path)
    try:
        with _source(path) as source, _Forward(source) as file:
            check_rate(file.samplerate)
            yield file
    except soundfile.LibsndfileError as error:
        raise ConfigError(f"cannot be read as audio: {error.error_string}") from error


def _check_path(path: Path) -> None:
    if not os.path.exists(path):
        raise ConfigError("does not exist.")
    if os.path.isdir(path):
        raise ConfigError("is a folder; give audio files.")
    if not os.access(path, os.R_OK):
        raise ConfigError("may not be read: permission denied.")
    if _is_terminal(path):
        raise ConfigError("is a terminal, from which no audio comes.")
    # soundfile goes by this ending, and asks for what a header would tell.
    if Path(path).suffix.lower() == ".raw":
        raise ConfigError(
            "cannot be read as audio: .raw has no header; make it wav or flac."
        )


def _is_terminal(path: Path) -> bool:
    if not stat.S_ISCHR(os.stat(path).st_mode):
        return False
    with open(os.open(path, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK), "rb") as file:
        return file.isatty()


@contextmanager
def _source(path: Path) -> Iterator[bytes | IO[bytes]]:
    """What soundfile opens: the name, or what has come through a pipe."""
    if not stat.S_ISFIFO(os.stat(path).st_mode):
        yield os.fsencode(path)
        return
    # To open it as a file would wait for a writer for ever.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as pipe:
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        if not poll.poll(1000 * PATIENCE):
            raise ConfigError(
                f"is a pipe into which nothing is written in {PATIENCE} s."
            )
        os.set_blocking(pipe.fileno(), True)
        # Some kinds, such as flac, cannot be read without going back.
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(pipe, copy)
            copy.seek(0)
            yield copy


def check_rate(rate: int) -> None:
    """Refuse what is no sampling rate of speech.

    Raises:
        ConfigError: not a whole number, or out of the allowed range.
    """
    number = isinstance(rate, int | float | np.number) and rate == rate // 1
    good = number and LOWEST_RATE <= rate <= HIGHEST_RATE
    allowed = f"a whole number of samples a second, {LOWEST_RATE} to {HIGHEST_RATE}"
    check(good, "sampling rate", rate, allowed)


def blocks(file: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """The samples of a file from where it is, as float32 [n] with channels averaged.

    Raises:
        ConfigError: there are none, or one is not finite; without the path.
    """
    frames = max(1, BLOCK_VALUES // file.channels)
    done = 0
    while len(block := file.read(frames, dtype="float32", always_2d=True)):
        block = block.mean(axis=1)
        check_finite(torch.from_numpy(block), done)
        yield block
        done += len(block)
    if not done:
        raise ConfigError("has no samples.")


def check_finite(values: torch.Tensor, first: int = 0) -> None:
    """Refuse numbers of which a model would make nonsense.

    Args:
        values: [N], or [N, D].
        first: Position of `values[0]` in the whole.

    Raises:
        ConfigError: NaN, infinite, or so large that features overflow.
    """
    good = torch.isfinite(values) & (values.abs() <= LOUDEST)
    if bool(good.all()):
        return
    bad = torch.nonzero(~good)
    value = float(values[tuple(bad[0])])
    raise ConfigError(
        f"has {len(bad)} values that are not finite numbers of at most 2**31; the "
        f"first, {value}, is at position {first + int(bad[0, 0])}."
    )


def resampled(samples: np.ndarray, own_rate: int, rate: int) -> torch.Tensor:
    """Samples [N] at `own_rate` as a tensor at `rate`.

    Exact for usual rates; where the two have no common divisor, at a speed that is
    right to a thousandth.
    """
    speech = torch.from_numpy(samples)
    if own_rate == rate:
        return speech
    ratio = Fraction(int(rate), int(own_rate))
    ratio = ratio.limit_denominator(int(FINEST_RATIO / max(1, ratio)))
    return torchaudio.functional.resample(speech, ratio.denominator, ratio.numerator)


def transcribe(
    recogniser: Recognise, samples: np.ndarray, own_rate: int, rate: int
) -> str:
    """Text of samples [N] at `own_rate`, cut at silences and resampled to `rate`."""
    parts = pieces([samples], own_rate)
    return _joined(_text(recogniser, part, own_rate, rate) for part in parts)


def transcribe_file(recogniser: Recognise, path: Path, rate: int) -> tuple[str, float]:
    """Text and seconds of an audio file, which is never in memory as a whole.

    Args:
        recogniser: Takes samples [N] at `rate`.
        path: A file of any length, sampling rate and number of channels.
        rate: Of the recogniser.

    Raises:
        ConfigError: it cannot be read, or a piece of it not be recognised.
    """
    texts, samples = [], 0
    with errors_with(path), opened(path) as file:
        for piece in pieces(blocks(file), file.samplerate):
            texts.append(_text(recogniser, piece, file.samplerate, rate))
            samples += len(piece)
        return _joined(texts), samples / file.samplerate


def _text(recogniser: Recognise, piece: np.ndarray, own_rate: int, rate: int) -> str:
    results = recogniser(resampled(piece, own_rate, rate).numpy())
    # With intermediate CTC losses there is a second part: what its layers hear.
    best = results[0] if isinstance(results, tuple) else results
    if not best:  # ESPnet has shortened a minlenratio above 0
        raise ConfigError("nothing was found that is as long as minlenratio wants.")
    return (best[0][0] or "").strip()


def _joined(texts: Iterable[str]) -> str:
    return " ".join(text for text in texts if text)
