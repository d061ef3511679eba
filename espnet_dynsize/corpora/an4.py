"""The AN4 corpus (CMU census database, 948 training and 130 test utterances)."""

import re
from pathlib import Path

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.corpora.datadir import Utterance, write_data_dir

VALID_UTTERANCES = 100
_TRANSCRIPT = re.compile(r"^(?:<s> )?(.*?)(?: </s>)? \((\w+)-(\w+)-(\w+)\)$")


def read_split(corpus_dir: Path, split: str) -> list[Utterance]:
    """Read the utterances of `split` (`train` or `test`).

    Raises:
        ConfigError: `corpus_dir` is not an unpacked AN4 folder.
    """
    etc = Path(corpus_dir) / "etc"
    transcription = etc / f"an4_{split}.transcription"
    fileids = etc / f"an4_{split}.fileids"
    if not transcription.exists() or not fileids.exists():
        raise ConfigError(
            f"corpus_dir={corpus_dir} is not an AN4 folder: {transcription} and "
            f"{fileids} must exist."
        )
    wavs = {Path(line).name: line for line in fileids.read_text().split()}
    return [
        _utterance(Path(corpus_dir), wavs, line)
        for line in transcription.read_text().splitlines()
        if line.strip()
    ]


def _utterance(corpus_dir: Path, wavs: dict[str, str], line: str) -> Utterance:
    text, prompt, speaker, channel = _TRANSCRIPT.match(line.strip()).groups()
    stem = corpus_dir / "wav" / wavs[f"{prompt}-{speaker}-{channel}"]
    wav = next(
        (p for s in (".flac", ".wav", ".sph") if (p := stem.with_suffix(s)).exists()),
        None,
    )
    if wav is None:
        raise ConfigError(
            f"{stem} has no audio: a .flac, .wav or .sph file must exist."
        )
    return Utterance(f"{speaker}-{prompt}-{channel}", speaker, wav.resolve(), text)


def prepare(corpus_dir: Path, data: Path) -> dict[str, Path]:
    """Write `data/{train,valid,test}`; valid is the first 100 training utterances.

    The split is that of ESPnet's own AN4 recipe.
    """
    train = sorted(read_split(corpus_dir, "train"))
    splits = {
        "train": train[VALID_UTTERANCES:],
        "valid": train[:VALID_UTTERANCES],
        "test": read_split(corpus_dir, "test"),
    }
    return {name: write_data_dir(data / name, utts) for name, utts in splits.items()}
