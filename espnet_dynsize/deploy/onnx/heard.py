"""What a file hears in test data, next to the model that it was made of."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jiwer
import numpy as np
import torch
from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.runtime import InputError, Model, collapsed, pieces, read


class Utterance(NamedTuple):
    """Audio and what is said in it."""

    audio: Path
    text: str


class Heard(NamedTuple):
    """Word errors of greedy CTC, before and after an export."""

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
    audio, text = (dict(_lines(folder / name)) for name in ("wav.scp", "text"))
    for name, value in audio.items():
        if value.endswith("|"):
            raise ConfigError(
                f"{folder}/wav.scp: {name} must be a file, not a command."
            )
    if (folder / "segments").exists():
        raise ConfigError(f"{folder} must have no segments for --data.")
    both = [name for name in text if name in audio]
    if not any(text[name] for name in both):
        raise ConfigError(f"{folder} has no utterance with audio and words.")
    return [Utterance(Path(audio[name]), text[name]) for name in both]


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} must be UTF-8 text.") from error
    for line in filter(str.strip, lines):
        name, *rest = line.split(maxsplit=1)
        yield name, rest[0].strip() if rest else ""


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
            parts = pieces(samples, found.rate)
            theirs = [_of_model(model, found, part) for part in parts]
            texts.append((" ".join(filter(None, theirs)), found.transcribe(samples)))
        except InputError as error:
            raise ConfigError(f"{utterance.audio}: {error}") from error
    spoken = [utterance.text for utterance in data]
    before, after = (jiwer.process_words(spoken, list(said)) for said in zip(*texts))
    words = before.hits + before.substitutions + before.deletions
    return Heard(words, _errors(before), _errors(after))


def _errors(counts: jiwer.WordOutput) -> int:
    return counts.substitutions + counts.deletions + counts.insertions


@torch.no_grad()
def _of_model(model: ESPnetASRModel, found: Model, samples: np.ndarray) -> str:
    if len(found.log_probabilities(samples)) == 0:
        return ""  # too short
    speech = torch.from_numpy(samples.copy())
    encoded, _ = model.encode(speech[None], torch.tensor([len(speech)]))
    encoded = encoded[0] if isinstance(encoded, tuple) else encoded
    best = model.ctc.argmax(encoded)[0].numpy()
    return found.text([found.about["tokens"][i] for i in collapsed(best)])
