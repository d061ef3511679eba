"""RESULTS.md in ESPnet's format, one row a size and test set, after checking counts.

Stock scoring accepts missing, empty and misaligned hypotheses in silence, so nothing is
reported before every utterance of the reference has been found again.
"""

import datetime
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from espnet_dynsize.core.about import VERSION
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.report.scores import read_text, read_trn

KINDS = ("wer", "cer", "ter")
_SUM = re.compile(r"^\|\s*Sum/Avg\s*\|\s*(\d+)\s+(\d+)\s*\|\s*([\d.\s]+)\|", re.M)
_HEADER = "|dataset|Snt|Wrd|Corr|Sub|Del|Ins|Err|S.Err|\n" + "|---" * 9 + "|\n"


def results(
    title: str, folders: Mapping[int, Path], test_sets: Iterable[str], data: Path
) -> str:
    """The table of a family.

    Args:
        title: The supernet's folder.
        folders: Size → folder of the extracted model.
        test_sets: Every size must have decoded all of them.
        data: Folder of the data directories (`dump/raw`), for the references.

    Raises:
        ConfigError: a test set has not been decoded or scored, or not all of it.
    """
    rows: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for size, folder in folders.items():
        for name in test_sets:
            scored = sorted(folder.glob(f"*/{name}/score_wer/result.txt"))
            if not scored:
                raise ConfigError(
                    f"{folder} has no scores of {name}: run stages 12 and 13."
                )
            for path in scored:
                decoded = path.parents[1]
                check_decoded(decoded, data / name)
                label = f"size{size}/{decoded.relative_to(folder)}"
                for kind in KINDS:
                    if (decoded / f"score_{kind}" / "result.txt").exists():
                        rows[kind].append(_row(decoded / f"score_{kind}", label))
    tables = [
        f"### {k.upper()}\n\n{_HEADER}" + "".join(rows[k]) for k in KINDS if rows[k]
    ]
    return _environment() + f"\n## {title}\n" + "\n".join(tables)


def check_decoded(decoded: Path, data: Path) -> None:
    """Compare what was decoded and scored with the reference, utterance by utterance.

    Args:
        decoded: `<model>/<inference>/<test set>`.
        data: Data directory of the test set, with `text`.

    Raises:
        ConfigError: hypotheses are missing, all empty, or not what was scored.
    """
    reference, hypothesis = read_text(data / "text"), read_text(decoded / "text")
    # sclite pairs what it is given; it does not miss what it is not.
    missing = [key for key in reference if key not in hypothesis]
    if missing:
        raise ConfigError(
            f"{decoded}: {len(missing)} of {len(reference)} utterances have no "
            f"hypothesis, first {missing[0]}; decode again (stage 12)."
        )
    if list(hypothesis) != list(reference):
        raise ConfigError(
            f"{decoded}/text does not have the utterances of {data}/text in the same "
            "order; decode again (stage 12)."
        )
    if not any(hypothesis.values()):
        raise ConfigError(f"{decoded}: every hypothesis is empty; look at its logdir.")
    for side, texts in (("ref", reference), ("hyp", hypothesis)):
        trn = read_trn(decoded / "score_wer" / f"{side}.trn")
        # asr.sh names them (speaker-utterance)
        same = all(key.endswith(f"-{name}") for key, name in zip(trn, texts))
        if len(trn) != len(reference) or not same:
            raise ConfigError(
                f"{decoded}/score_wer/{side}.trn has {len(trn)} utterances where "
                f"{data}/text has {len(reference)}, or others; score again (stage 13)."
            )
    sentences, words, _ = read_sum(decoded / "score_wer")
    expected = sum(
        len(text.split())
        for text in read_trn(decoded / "score_wer" / "ref.trn").values()
    )
    if (sentences, words) != (len(reference), expected) or words == 0:
        raise ConfigError(
            f"{decoded}/score_wer/result.txt counts {sentences} utterances and "
            f"{words} words, but the reference has {len(reference)} and {expected}; "
            "score again (stage 13)."
        )


def read_sum(folder: Path) -> tuple[int, int, Sequence[str]]:
    """Sentences, words and percentages of sclite's `result.txt`.

    Raises:
        ConfigError: it has no such line.
    """
    path = folder / "result.txt"
    line = _SUM.search(path.read_text(encoding="utf-8", errors="replace"))
    if line is None:
        raise ConfigError(f"{path} has no Sum/Avg line; score again (stage 13).")
    return int(line[1]), int(line[2]), line[3].split()


def _row(folder: Path, label: str) -> str:
    sentences, words, percentages = read_sum(folder)
    cells = [label, str(sentences), str(words), *percentages]
    return "|" + "|".join(cells) + "|\n"


def _environment() -> str:
    import espnet2

    now = datetime.datetime.now().astimezone().strftime("%a %b %d %H:%M:%S %Z %Y")
    return (
        "<!-- Generated by espnet-dynsize recipe -->\n# RESULTS\n## Environments\n"
        f"- date: `{now}`\n"
        f"- python version: `{' '.join(sys.version.split())}`\n"
        f"- espnet version: `espnet {espnet2.__version__}`\n"
        f"- espnet_dynsize version: `{VERSION}`\n"
        f"- pytorch version: `pytorch {torch.__version__}`\n"
    )
