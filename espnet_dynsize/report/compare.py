"""Whether one decoding is better than another, or the test set happens to say so.

Paired bootstrap over utterances: Bisani and Ney, *Bootstrap estimates for confidence
intervals in ASR performance evaluation*, ICASSP 2004.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.report.decodings import Name, labels
from espnet_dynsize.report.scores import UtteranceErrors, read_errors
from espnet_dynsize.report.table import find_models, markdown_line

DRAWS = 10_000
SEED = 0
LEVEL = 0.95  # of the confidence intervals
# Fewer utterances say too little: below, equal systems differ "significantly" in more
# than one of twenty test sets
FEWEST = 30
KINDS = {"WER": "score_wer", "CER": "score_cer"}


class Comparison(NamedTuple):
    """Error rates of two systems on the same utterances, as fractions."""

    utterances: int
    words: int  # of the reference
    first: float
    second: float
    low: float  # of the confidence interval of `second - first`
    high: float
    p_value: float  # two-sided, of no difference


def paired_bootstrap(
    first: np.ndarray, second: np.ndarray, words: np.ndarray, draws: int = DRAWS
) -> Comparison:
    """Compare two systems by their errors in every utterance.

    Utterances are drawn with replacement, the same ones for both systems, and the
    difference of the error rates is taken of every draw. The interval is from the 2.5th
    to the 97.5th percentile; the p-value is twice the share of the draws whose
    difference is zero or of the other sign, (1 + n) / (1 + draws) at least.

    Utterances are taken for independent. Where those of one speaker are alike, give
    sums over speakers instead. Seeds of the training are another matter.

    Args:
        first: Errors [N].
        second: Errors [N].
        words: Words of the reference [N].
        draws: How often all N are drawn.
    """
    dice = np.random.default_rng(SEED)
    each = np.stack([second - first, words]).astype(np.int64)  # [2, N]
    number = len(words)
    differences = np.empty(draws)
    for draw in range(draws):
        more, drawn = each[:, dice.integers(number, size=number)].sum(axis=1)
        # No words were drawn: no errors to be compared
        differences[draw] = more / drawn if drawn else 0.0
    margin = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(differences, [margin, 100 - margin])
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    return Comparison(
        utterances=number,
        words=int(words.sum()),
        first=first.sum() / words.sum(),
        second=second.sum() / words.sum(),
        low=float(low),
        high=float(high),
        p_value=min(1.0, 2 * (1 + int(tail)) / (1 + draws)),
    )


def compare_errors(
    first: Mapping[str, UtteranceErrors], second: Mapping[str, UtteranceErrors]
) -> Comparison:
    """`paired_bootstrap` of the errors by utterance.

    Raises:
        ConfigError: the utterances, or their references, are not the same.
    """
    words = {key: one.words for key, one in first.items()}
    if words != {key: one.words for key, one in second.items()}:
        differ = sorted(
            key
            for key in first.keys() | second.keys()
            if key not in first
            or key not in second
            or first[key].words != second[key].words
        )
        raise ConfigError(
            f"the two must have decoded the same utterances with the same references; "
            f"{len(differ)} differ, first {differ[0]}."
        )
    keys = sorted(words)
    one, other = (
        np.array([side[key].errors for key in keys]) for side in (first, second)
    )
    return paired_bootstrap(one, other, np.array([words[key] for key in keys]))


def compare(folders: Sequence[Path], model_file: str = "") -> str:
    """A table of every model, or decoding, against the first one.

    Args:
        folders: Of models that have decoded, or of decoded test sets themselves.
        model_file: Checkpoint of the models; empty: see `find_checkpoint`.

    Raises:
        ConfigError: they have no test set in common, or it cannot be compared.
    """
    if len(folders) < 2:
        raise ConfigError("--compare needs two folders or more: each against the first")
    found = [_decoded(Path(folder), model_file) for folder in folders]
    (base, baseline), *others = zip(map(str, folders), found)
    lines = [
        "| test set | | of | utterances | words | % | compared with | % | difference | "
        f"{LEVEL:.0%} interval | p |",
        "|---|---|---|---:|---:|---:|---|---:|---:|---:|---:|",
    ]
    for name, decoded in others:
        common = labels(baseline.keys() & decoded.keys())
        if not common:
            raise ConfigError(
                f"{base} and {name} have no test set in common that both have decoded "
                "in the same way."
            )
        for key, label in common.items():
            # A decoded test set has no name of its own but that of its folder.
            label = label or Path(base).name
            for kind, scored in KINDS.items():
                places = [d[key] / scored for d in (baseline, decoded)]
                if not any(place.is_dir() for place in places):
                    continue
                pair = [read_errors(place) for place in places]
                try:
                    result = compare_errors(*pair)
                except ConfigError as error:
                    raise ConfigError(f"{name} and {base}, {label}: {error}") from error
                lines.append(_line(label, kind, base, name, result))
    return "\n".join(lines) + "\n"


def _decoded(folder: Path, model_file: str) -> dict[Name, Path]:
    """What a folder has decoded, by name; a decoded test set is one without a name."""
    if (folder / KINDS["WER"]).is_dir():
        return {Name("", ""): folder}
    (model,) = find_models([folder], model_file)
    return {name: decoding.folder for name, decoding in model.decodings.items()}


def _line(label: str, kind: str, base: str, name: str, result: Comparison) -> str:
    cells = [label, kind, base, str(result.utterances), str(result.words)]
    cells += [f"{100 * result.first:.1f}", name, f"{100 * result.second:.1f}"]
    cells += [f"{100 * (result.second - result.first):+.2f}"]
    cells += [f"{100 * result.low:+.2f} to {100 * result.high:+.2f}"]
    cells += ["–" if result.utterances < FEWEST else f"{result.p_value:.4f}"]
    return markdown_line(cells)
