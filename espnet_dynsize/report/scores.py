"""Word and character error rates of decoded test sets."""

import re
from pathlib import Path
from typing import NamedTuple

import jiwer

from espnet_dynsize.errors import ConfigError

_TRN = re.compile(r"^(.*?)\s*\((\S+)\)$")


class Score(NamedTuple):
    """Error rates as fractions."""

    wer: float
    cer: float


def read_trn(path: Path) -> dict[str, str]:
    """Read `words (utterance)` lines into utterance → words."""
    lines = path.read_text(encoding="utf-8").splitlines()
    matches = [_TRN.match(line) for line in lines if line.strip()]
    return {match[2]: " ".join(match[1].split()) for match in matches}


def score(ref: dict[str, str], hyp: dict[str, str], name: str) -> Score:
    """Score hypotheses against references by utterance.

    Raises:
        ConfigError: an utterance is missing on one side, or there is no word.
    """
    missing = sorted(ref.keys() ^ hyp.keys())
    if missing:
        raise ConfigError(
            f"{name}: {len(missing)} utterances are not in both the reference "
            f"({len(ref)}) and the hypothesis ({len(hyp)}), first {missing[0]}."
        )
    ids = [i for i in sorted(ref) if ref[i]]
    if not ids:
        raise ConfigError(f"{name}: the reference has no words.")
    refs, hyps = [ref[i] for i in ids], [hyp[i] for i in ids]
    return Score(jiwer.wer(refs, hyps), jiwer.cer(refs, hyps))


def find_scores(asr_exp: Path) -> dict[str, Score]:
    """Score every `<inference>/<test set>/score_wer` below a model's folder."""
    scores = {}
    for folder in sorted(Path(asr_exp).glob("*/**/score_wer")):
        if (folder / "ref.trn").exists() and (folder / "hyp.trn").exists():
            ref, hyp = read_trn(folder / "ref.trn"), read_trn(folder / "hyp.trn")
            scores[folder.parent.name] = score(ref, hyp, str(folder))
    return scores
