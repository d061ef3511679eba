"""Word and character error rates of decoded test sets."""

import re
from pathlib import Path
from typing import NamedTuple

import jiwer

from espnet_dynsize.core.errors import ConfigError

_TRN = re.compile(r"^(.*?)\s*\((\S+)\)$")


class Score(NamedTuple):
    """Error rates as fractions."""

    wer: float
    cer: float


def read_text(path: Path) -> dict[str, str]:
    """Read a Kaldi-style `text`: utterance → words.

    Raises:
        ConfigError: it is not there.
    """
    if not path.is_file():
        raise ConfigError(f"{path} does not exist.")
    lines = path.read_text(encoding="utf-8").splitlines()
    pairs = (line.partition(" ") for line in lines)
    return {utterance: text.strip() for utterance, _, text in pairs}


def read_trn(path: Path) -> dict[str, str]:
    """Read `words (utterance)` lines into utterance → words."""
    lines = path.read_text(encoding="utf-8").splitlines()
    matches = [_TRN.match(line) for line in lines if line.strip()]
    return {match[2]: " ".join(match[1].split()) for match in matches}


def error_rate(ref: dict[str, str], hyp: dict[str, str], name: str) -> float:
    """Edit distance in tokens over reference tokens, by utterance.

    Raises:
        ConfigError: an utterance is missing on one side, or there is no token.
    """
    # Pairs are made by name, never by position.
    missing = sorted(ref.keys() ^ hyp.keys())
    if missing:
        raise ConfigError(
            f"{name}: {len(missing)} utterances are not in both the reference "
            f"({len(ref)}) and the hypothesis ({len(hyp)}), first {missing[0]}."
        )
    ids = [i for i in sorted(ref) if ref[i]]
    if not ids:
        raise ConfigError(f"{name}: the reference has no words.")
    return jiwer.wer([ref[i] for i in ids], [hyp[i] for i in ids])


def read_score(folder: Path) -> Score:
    """Score what lies in `folder/score_wer` and `folder/score_cer`, as sclite does."""
    rates = []
    for kind in ("score_wer", "score_cer"):
        ref, hyp = (read_trn(folder / kind / f"{side}.trn") for side in ("ref", "hyp"))
        rates.append(error_rate(ref, hyp, str(folder / kind)))
    return Score(*rates)


def write_score(folder: Path, ref: dict[str, str], hyp: dict[str, str]) -> None:
    """Write words and characters in the files that asr.sh leaves for sclite."""
    spell = {"score_wer": str.split, "score_cer": _characters}
    for kind, tokens in spell.items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for side, texts in (("ref", ref), ("hyp", hyp)):
            lines = [f"{' '.join(tokens(t))} ({i})\n" for i, t in sorted(texts.items())]
            (folder / kind / f"{side}.trn").write_text("".join(lines), encoding="utf-8")


def _characters(text: str) -> list[str]:
    return ["<space>" if c == " " else c for c in text]


def find_scores(asr_exp: Path) -> dict[str, Score]:
    """Score every `<inference>/<test set>` below a model's folder."""
    folders = sorted(p.parents[1] for p in Path(asr_exp).glob("*/**/score_wer/hyp.trn"))
    return {folder.name: read_score(folder) for folder in folders}
