"""TED-LIUM release 2 (openslr.org/19), as unpacked from its archive."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.corpora.datadir import (
    Utterance,
    check_utterances,
    read_lines,
    read_packed_lines,
    write_data_dirs,
)

SETS = ("train", "dev", "test")
# The training segments end too closely; seconds added by Kaldi's and ESPnet's recipes
START_PADDING, END_PADDING = 0.15, 0.1
_IGNORED = "ignore_time_segment_in_scoring"


def prepare(corpus_dir: Path, data: Path) -> dict[str, Path]:
    """Write `data/{train,dev,test}` with segments.

    Texts and ids are those of ESPnet's own recipe: no `<sil>`, no marks of variants
    (`(2)`), `it 's` joined to `it's`, `{NOISE}` as `[NOISE]`, `<unk>` kept. A speaker
    is a talk (ESPnet's recipe also splits long ones; nothing here depends on that).

    Args:
        corpus_dir: Folder with `TEDLIUM_release2/`.
        data: Where to write.

    Raises:
        ConfigError: the corpus is missing or broken; nothing has been written then.
    """
    sets = {name: read_set(Path(corpus_dir), name) for name in SETS}
    return write_data_dirs(data, sets)


def lm_text(corpus_dir: Path) -> Iterator[str]:
    """Lines of the release's language model texts, words as in the transcripts.

    Raises:
        ConfigError: there are none.
    """
    folder = Path(corpus_dir) / "TEDLIUM_release2" / "LM"
    files = sorted(folder.glob("*.en.gz"))
    if not files:
        raise ConfigError(f"{folder} has no *.en.gz, the texts for language models.")
    return _text_lines(files)


def _text_lines(files: Iterable[Path]) -> Iterator[str]:
    for path in files:
        texts = read_packed_lines(path)
        lines = (normalise(line.replace(" </s>", "")) for line in texts)
        yield from (line for line in lines if line)


def read_set(corpus_dir: Path, name: str) -> list[Utterance]:
    """The utterances of `train`, `dev` or `test`.

    Raises:
        ConfigError: the folder is missing or incomplete.
    """
    folder = corpus_dir / "TEDLIUM_release2" / name
    transcripts = {p.stem: p for p in (folder / "stm").glob("*.stm")}
    talks = {p.stem: p.resolve() for p in (folder / "sph").glob("*.sph")}
    if not transcripts or not talks:
        raise ConfigError(
            f"{folder} must have stm/*.stm and sph/*.sph: give the folder that holds "
            "TEDLIUM_release2."
        )
    odd = sorted(transcripts.keys() ^ talks.keys())
    if odd:
        raise ConfigError(f"{folder}: {odd[0]} needs both a .stm and a .sph file.")
    utterances = []
    for talk, path in sorted(transcripts.items()):
        segments = list(_read_talk(path, talks[talk]))
        if not segments:
            raise ConfigError(f"{path}: the talk has no utterances.")
        utterances += extended(segments) if name == "train" else segments
    check_utterances(str(folder), utterances)
    return utterances


def _read_talk(stm: Path, sph: Path) -> Iterable[Utterance]:
    previous = ""
    for line in read_lines(stm):
        if line == previous or line.startswith(";;"):
            continue  # the release has lines twice
        previous = line
        fields = line.split(maxsplit=6)
        if len(fields) < 6:
            raise ConfigError(
                f"{stm}: '{line}' must be: talk channel speaker start end label text."
            )
        if _IGNORED in line:
            continue
        try:
            start, end = (int(float(t) * 100) for t in fields[3:5])
            good = 0 <= start <= end
        except (ValueError, OverflowError):
            good = False
        if not good:
            raise ConfigError(
                f"{stm}: '{line}' must have a start and a later end, in seconds."
            )
        text = normalise(fields[6] if len(fields) > 6 else "")
        yield Utterance(
            f"{fields[0]}-{start:07d}-{end:07d}",
            fields[0],
            sph,
            text,
            (start / 100, end / 100),
        )


def normalise(text: str) -> str:
    """The words of an stm line, as ESPnet's recipe writes them."""
    text = re.sub(r"\([0-9]\)", "", text)  # variants of pronunciation
    text = text.replace("<sil>", "")
    text = re.sub(r"\([^ ]*\)$", "", text)  # the training set's utterance names
    text = re.sub(r"(\S+) ('\S*)", r"\1\2", " ".join(text.split()))
    return text.translate(str.maketrans("{}", "[]"))


def extended(utterances: list[Utterance]) -> list[Utterance]:
    """Segments of a talk with padding; where two meet, each gets half of the overlap.

    As `utils/data/extend_segment_times.py` does.
    """
    ordered = sorted(utterances, key=lambda u: sum(u.span))
    last = max(u.span[1] for u in ordered) + END_PADDING
    spans = [
        [max(0.0, u.span[0] - START_PADDING), min(last, u.span[1] + END_PADDING)]
        for u in ordered
    ]
    for one, following in zip(spans, spans[1:]):
        if one[1] > following[0]:
            one[1] = following[0] = (one[1] + following[0]) / 2
    return [u._replace(span=tuple(span)) for u, span in zip(ordered, spans)]
