"""The AN4 corpus (CMU census database, 948 training and 130 test utterances)."""

import random
import re
from pathlib import Path

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.corpora.datadir import (
    Utterance,
    check_utterances,
    read_lines,
    write_data_dirs,
)

VALID_UTTERANCES = 100
FOLDS, FOLD_SEED = 5, 0
_TRANSCRIPT = re.compile(r"^(.*)\((\w+)-(\w+)-(\w+)\)$")


def read_split(corpus_dir: Path, split: str) -> list[Utterance]:
    """Read the utterances of `split` (`train` or `test`).

    Raises:
        ConfigError: `corpus_dir` is not an unpacked AN4 folder, or a file is broken.
    """
    etc = Path(corpus_dir) / "etc"
    transcription = etc / f"an4_{split}.transcription"
    fileids = etc / f"an4_{split}.fileids"
    if not transcription.exists() or not fileids.exists():
        raise ConfigError(
            f"corpus_dir={corpus_dir} is not an AN4 folder: {transcription} and "
            f"{fileids} must exist."
        )
    stems = _read_fileids(fileids)
    utterances = []
    for line in read_lines(transcription):
        name, utterance = _parse(transcription, line)
        if name not in stems:
            raise ConfigError(f"{fileids} has no {name}, which is in {transcription}.")
        wav = _audio(Path(corpus_dir) / "wav" / stems[name])
        utterances.append(utterance._replace(wav=wav))
    check_utterances(str(transcription), utterances)
    return utterances


def _read_fileids(path: Path) -> dict[str, str]:
    """Name of an utterance → where its audio is, without the suffix."""
    stems: dict[str, str] = {}
    for line in read_lines(path):
        name = Path(line).name
        if name in stems:
            raise ConfigError(f"{path}: {name} is there twice.")
        stems[name] = line
    return stems


def _parse(path: Path, line: str) -> tuple[str, Utterance]:
    """The name in the list of files, and the utterance without its audio."""
    match = _TRANSCRIPT.match(line)
    if match is None:
        raise ConfigError(
            f"{path}: '{line}' must be: <s> TEXT </s> (PROMPT-SPEAKER-CHANNEL)."
        )
    text, prompt, speaker, channel = match.groups()
    text = text.strip().removeprefix("<s>").removesuffix("</s>").strip()
    utterance = Utterance(f"{speaker}-{prompt}-{channel}", speaker, Path(), text)
    return f"{prompt}-{speaker}-{channel}", utterance


def _audio(stem: Path) -> Path:
    for suffix in (".flac", ".wav", ".sph"):
        if (path := stem.with_suffix(suffix)).exists():
            return path.resolve()
    raise ConfigError(f"{stem} has no audio: a .flac, .wav or .sph file must exist.")


def prepare(corpus_dir: Path, data: Path, fold: int | None = None) -> dict[str, Path]:
    """Write `data/{train,valid,test}`.

    Args:
        corpus_dir: Folder of the corpus.
        data: Where the data directories go.
        fold: Of `read_folds`, which is the test set; None: the official one, and the
            first 100 training utterances are the validation set, as in ESPnet's own
            AN4 recipe.

    Raises:
        ConfigError: the corpus is missing or broken; nothing has been written then.
    """
    if fold is not None:
        return write_data_dirs(data, fold_splits(read_folds(corpus_dir), fold))
    train = sorted(read_split(corpus_dir, "train"))
    if len(train) <= VALID_UTTERANCES:
        raise ConfigError(
            f"{Path(corpus_dir) / 'etc' / 'an4_train.transcription'}: its number of "
            f"utterances, {len(train)}, must be more than {VALID_UTTERANCES}, which "
            "become the validation set."
        )
    splits = {
        "train": train[VALID_UTTERANCES:],
        "valid": train[:VALID_UTTERANCES],
        "test": read_split(corpus_dir, "test"),
    }
    return write_data_dirs(data, splits)


def read_folds(corpus_dir: Path) -> list[list[Utterance]]:
    """All utterances of both official sets, in five parts with other speakers each.

    Speakers are shuffled with a fixed seed and dealt out in turns.

    Raises:
        ConfigError: see `read_split`.
    """
    speakers: dict[str, list[Utterance]] = {}
    for split in ("train", "test"):
        for utterance in sorted(read_split(corpus_dir, split)):
            speakers.setdefault(utterance.speaker, []).append(utterance)
    names = sorted(speakers)
    random.Random(FOLD_SEED).shuffle(names)
    return [
        [utterance for name in names[fold::FOLDS] for utterance in speakers[name]]
        for fold in range(FOLDS)
    ]


def fold_splits(folds: list[list[Utterance]], fold: int) -> dict[str, list[Utterance]]:
    """Test on a fold; train on the others, but for the validation set's speakers.

    The validation set is the first 100 utterances of the next fold. What else its
    speakers have said is not used.

    Args:
        folds: See `read_folds`.
        fold: Number of the test fold.
    """
    following = folds[(fold + 1) % len(folds)]
    valid = following[:VALID_UTTERANCES]
    known = {utterance.speaker for utterance in (*folds[fold], *valid)}
    everything = [utterance for part in folds for utterance in part]
    return {
        "train": [u for u in everything if u.speaker not in known],
        "valid": valid,
        "test": folds[fold],
    }
