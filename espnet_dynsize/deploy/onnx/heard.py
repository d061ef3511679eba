"""What a file hears in test data, next to the model that it was made of."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jiwer
import numpy as np
import torch
from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.corpora.datadir import read_lines
from espnet_dynsize.deploy.onnx.original import greedy
from espnet_dynsize.runtime import InputError, Model, pieces, read


class Utterance(NamedTuple):
    """Audio and what is said in it."""

    audio: Path
    text: str


class Heard(NamedTuple):
    """Word errors of a greedy search, before and after an export."""

    words: int
    before: int
    after: int

    @property
    def grown(self) -> float:
        """By what share of those before there are more errors."""
        return (self.after - self.before) / max(self.before, 1)

    def __str__(self) -> str:
        before, after = (100 * n / self.words for n in (self.before, self.after))
        return f"WER {before:.2f} % before, {after:.2f} % after ({self.words} words)"


def read_data(folder: Path) -> list[Utterance]:
    """The utterances of a Kaldi-style data directory, whose audio is in files.

    Raises:
        ConfigError: it is no such directory.
    """
    audio, text = (_lines(folder / name) for name in ("wav.scp", "text"))
    for name, value in audio.items():
        if value.endswith("|"):
            raise ConfigError(
                f"{folder}/wav.scp: {name} must be a file, not a command."
            )
    if (folder / "segments").exists():
        raise ConfigError(f"{folder} must have no segments for --data.")
    for name in sorted(audio.keys() ^ text.keys()):
        there, missing = ("wav.scp", "text")[:: 1 if name in audio else -1]
        raise ConfigError(f"{folder}: {name} is in {there}, but not in {missing}.")
    if not any(text.values()):
        raise ConfigError(f"{folder} has no utterance with words.")
    return [Utterance(Path(audio[name]), text[name]) for name in text]


def _lines(path: Path) -> dict[str, str]:
    """Utterance → the rest of its line."""
    found: dict[str, str] = {}
    for line in read_lines(path):
        name, *rest = line.split(maxsplit=1)
        if name in found:
            raise ConfigError(f"{path}: {name} has two lines.")
        found[name] = rest[0] if rest else ""
    return found


def compare(model: ESPnetASRModel, path: Path, data: Sequence[Utterance]) -> Heard:
    """Count the word errors of a model and of its file.

    Args:
        model: The model.
        path: The file.
        data: Test data.

    Raises:
        ConfigError: some audio cannot be read.
    """
    found = Model(path)
    texts: list[tuple[str, str]] = []
    for utterance in data:
        try:
            samples = read(utterance.audio, found.rate)
            parts = pieces([samples], found.rate)
            both = [_of_both(model, found, part) for part in parts]
            before, after = (" ".join(filter(None, said)) for said in zip(*both))
            texts.append((before, after))
        except InputError as error:
            raise ConfigError(f"{utterance.audio}: {error}") from error
    spoken = [utterance.text for utterance in data]
    before, after = (jiwer.process_words(spoken, list(said)) for said in zip(*texts))
    words = before.hits + before.substitutions + before.deletions
    return Heard(words, _errors(before), _errors(after))


def _errors(counts: jiwer.WordOutput) -> int:
    return counts.substitutions + counts.deletions + counts.insertions


def _of_both(
    model: ESPnetASRModel, found: Model, samples: np.ndarray
) -> tuple[str, str]:
    if found.too_short(samples):
        return "", ""
    names = found.about["tokens"]
    speech = torch.from_numpy(samples.copy())
    before = [names[i] for i in greedy(model, speech, found.about["kind"])]
    return found.text(before), found(samples)
