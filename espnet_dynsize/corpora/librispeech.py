"""LibriSpeech (openslr.org/12), as unpacked from its archives."""

from collections.abc import Iterator
from pathlib import Path

from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.corpora.datadir import (
    Utterance,
    check_utterances,
    read_lines,
    read_packed_lines,
    write_data_dirs,
)

TRAIN_SETS = {
    "train_960": ("train-clean-100", "train-clean-360", "train-other-500"),
    "train_clean_100": ("train-clean-100",),
}
# The names of ESPnet's own recipe
OTHER_SETS = {
    "dev": ("dev-clean", "dev-other"),
    "dev_clean": ("dev-clean",),
    "dev_other": ("dev-other",),
    "test_clean": ("test-clean",),
    "test_other": ("test-other",),
}


def prepare(corpus_dir: Path, data: Path, train_set: str) -> dict[str, Path]:
    """Write `data/<set>` for the training set and every development and test set.

    A speaker is a reader in one chapter, as in Kaldi's and ESPnet's recipes.

    Args:
        corpus_dir: Folder with `LibriSpeech/`.
        data: Where to write.
        train_set: `train_960` or `train_clean_100`.

    Raises:
        ConfigError: there is no such training set, or a part is missing or broken;
            nothing has been written then.
    """
    allowed = f"one of {tuple(TRAIN_SETS)}"
    check(train_set in TRAIN_SETS, "train_set", train_set, allowed)
    sets = {train_set: TRAIN_SETS[train_set], **OTHER_SETS}
    all_names = dict.fromkeys(name for names in sets.values() for name in names)
    parts = {name: read_part(Path(corpus_dir), name) for name in all_names}
    splits = {
        n: [u for part in names for u in parts[part]] for n, names in sets.items()
    }
    return write_data_dirs(data, splits)


def lm_text(corpus_dir: Path) -> Iterator[str]:
    """Lines of `librispeech-lm-norm.txt.gz` (openslr.org/11), which is in `corpus_dir`.

    Raises:
        ConfigError: it is not.
    """
    path = Path(corpus_dir) / "librispeech-lm-norm.txt.gz"
    if not path.is_file():
        raise ConfigError(f"{path} does not exist: fetch it from openslr.org/11.")
    return (line.strip() for line in read_packed_lines(path) if line.strip())


def read_part(corpus_dir: Path, part: str) -> list[Utterance]:
    """The utterances of one part (`dev-clean`, …).

    Raises:
        ConfigError: the folder is missing or incomplete.
    """
    folder = corpus_dir / "LibriSpeech" / part
    readers = _folders(folder)
    chapters = [chapter for reader in readers for chapter in _folders(reader)]
    utterances = [u for chapter in chapters for u in _read_chapter(chapter)]
    check_utterances(str(folder), utterances)
    return utterances


def _folders(folder: Path) -> list[Path]:
    inside = sorted(p for p in folder.glob("*") if p.is_dir())
    if not inside:
        missing = "does not exist" if not folder.is_dir() else "has no utterances"
        raise ConfigError(
            f"{folder} {missing}: LibriSpeech's folders are "
            "LibriSpeech/<part>/<reader>/<chapter>."
        )
    return inside


def _read_chapter(chapter: Path) -> list[Utterance]:
    speaker = f"{chapter.parent.name}-{chapter.name}"
    transcripts = chapter / f"{speaker}.trans.txt"
    if not transcripts.is_file():
        raise ConfigError(f"{chapter} has no {transcripts.name}.")
    texts: dict[str, str] = {}
    for line in read_lines(transcripts):
        key, _, text = line.partition(" ")
        if key in texts:
            raise ConfigError(f"{transcripts}: {key} is there twice.")
        texts[key] = text.strip()
    audio = {p.stem: p.resolve() for p in chapter.glob("*.flac")}
    if not texts:
        raise ConfigError(f"{chapter} has no utterances: {transcripts.name} is empty.")
    odd = sorted(texts.keys() ^ audio.keys())
    if odd:
        raise ConfigError(
            f"{chapter}: {odd[0]} needs both a .flac file and a line in "
            f"{transcripts.name}."
        )
    return [Utterance(i, speaker, audio[i], text) for i, text in texts.items()]
