"""Kaldi-style data directories, the input of every ESPnet stage."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Utterance(NamedTuple):
    """One recording and what is said in it."""

    id: str
    speaker: str
    wav: Path
    text: str


def write_data_dir(directory: Path, utterances: Iterable[Utterance]) -> Path:
    """Write `wav.scp`, `text`, `utt2spk` and `spk2utt`, sorted by utterance id."""
    utterances = sorted(utterances)
    directory.mkdir(parents=True, exist_ok=True)
    speakers: dict[str, list] = {}
    for utterance in utterances:
        speakers.setdefault(utterance.speaker, []).append(utterance.id)
    files = {
        "wav.scp": [f"{u.id} {u.wav}" for u in utterances],
        "text": [f"{u.id} {u.text}" for u in utterances],
        "utt2spk": [f"{u.id} {u.speaker}" for u in utterances],
        "spk2utt": [f"{s} {' '.join(ids)}" for s, ids in sorted(speakers.items())],
    }
    for name, lines in files.items():
        (directory / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory
