"""What a model has decoded: every inference folder and test set, with its scores."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from espnet_dynsize.report.scores import Score, read_score, read_trn

# asr.sh puts it before the checkpoint's stem
_ASR_MODEL = "_asr_model_"
# What follows the stem there, where k2 decodes
_K2 = "_use_k2"
# ESPnet's averaged and best checkpoints; others are told by their file
_CHECKPOINT = r"(?:train|valid)\.\w+\.(?:ave|best)(?:_\d+best)?"


class Name(NamedTuple):
    """What is compared between models.

    Args:
        decoding: The inference folder, without the model's own checkpoint.
        test_set: The folder in it.
    """

    decoding: str
    test_set: str


@dataclass(frozen=True)
class Decoding:
    """A test set that a model has decoded."""

    name: Name
    folder: Path
    score: Score
    all_empty: bool  # every hypothesis


def find_decodings(
    folder: Path, model_file: str
) -> tuple[dict[Name, Decoding], list[Path]]:
    """Score every `<inference>/<test set>` below a model's folder.

    Args:
        folder: Of the model.
        model_file: Its checkpoint. Decodings whose name has another one are left out.

    Returns:
        What was decoded, by name, and the folders that are left out.

    Raises:
        ConfigError: one cannot be scored.
    """
    stems = [path.stem for path in folder.glob("*.pth")]
    named: dict[Path, Name] = {}
    others: list[Path] = []
    for decoded in sorted(p.parent for p in folder.glob("*/**/score_wer")):
        inference, *test_set = decoded.relative_to(folder).parts
        decoding, stem = split_name(inference, stems)
        if stem and not _same_file(folder, stem, model_file):
            others.append(decoded)
        else:
            named[decoded] = Name(decoding, "/".join(test_set))
    often = Counter(named.values())
    decodings = {}
    for decoded, name in named.items():
        if often[name] > 1:
            name = name._replace(decoding=decoded.relative_to(folder).parts[0])
        decodings[name] = _decoding(name, decoded)
    return decodings, others


def split_name(inference: str, stems: Iterable[str]) -> tuple[str, str]:
    """Name of an inference folder without the checkpoint, and the checkpoint's stem.

    The stem is empty where the name does not tell.

    Args:
        inference: As asr.sh or the demo call it.
        stems: Of checkpoints in the model's folder.
    """
    decoding, found, rest = inference.rpartition(_ASR_MODEL)
    if found:
        stem, k2, options = rest.partition(_K2)
        return decoding + k2 + options, stem
    for stem in sorted(stems, key=len, reverse=True):
        if inference.endswith(f"_{stem}"):
            return inference.removesuffix(f"_{stem}"), stem
    # Behind anything else than this word it may be a language model's.
    match = re.fullmatch(rf"(decode|inference)_({_CHECKPOINT})", inference)
    return (match[1], match[2]) if match else (inference, "")


def _same_file(folder: Path, stem: str, model_file: str) -> bool:
    # ESPnet's averages have a second name, as a link.
    other = folder / f"{stem}.pth"
    return stem == Path(model_file).stem or (
        other.is_file() and other.samefile(folder / model_file)
    )


def _decoding(name: Name, folder: Path) -> Decoding:
    score = read_score(folder)
    hypotheses = read_trn(folder / "score_wer" / "hyp.trn")
    return Decoding(name, folder, score, not any(hypotheses.values()))


def labels(names: Iterable[Name]) -> dict[Name, str]:
    """Names in order, as columns are called: with the decoding where that is needed."""
    ordered = sorted(set(names), key=lambda name: (name.test_set, name.decoding))
    often = Counter(name.test_set for name in ordered)
    return {
        name: name.test_set
        if often[name.test_set] == 1
        else f"{name.decoding}/{name.test_set}"
        for name in ordered
    }
