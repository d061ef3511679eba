"""Tables of folds: errors pooled over all speakers, with the paired bootstrap."""

from typing import NamedTuple

import numpy as np
from an4_methods import METHODS, NARROW, WIDE, base_of

from espnet_dynsize.report.compare import Comparison, paired_bootstrap

KINDS = {
    "wer": "test WER",
    "cer": "test CER",
    "dev_wer": "dev WER",
    "dev_cer": "dev CER",
}
_NOTE = """\
Error rates in %, pooled over the utterances of the folds and seeds; dev chooses the
epochs that are averaged. In brackets the ratio to the model of as many parameters (of
the same kind: a family of E-Branchformers to E-Branchformers) that is trained alone,
over the folds and seeds that both have run, and the p-value of no difference (paired
bootstrap over speakers, whose utterances are alike; 10,000 draws). The last column is
the mean of the ratios."""


class Run(NamedTuple):
    fold: str
    seed: int


def pooled_tables(title: str, rows: list[dict], words: dict) -> str:
    """A table of costs, and one for each kind of error rate, by family of sizes."""
    parts = [f"## {title}\n\n{_NOTE}\n"]
    for layers in (WIDE, NARROW):
        of_sizes = [row for row in rows if row["layers"] in layers]
        methods = [m for m in METHODS if _rows(of_sizes, m, layers[0])]
        if len(methods) > 1:
            parts.append(f"### Costs, next to {_blocks(layers)} blocks\n")
            parts.append(_costs(of_sizes, methods, layers))
            for kind, name in KINDS.items():
                parts.append(f"### {name}, next to {_blocks(layers)} blocks\n")
                parts.append(_table(of_sizes, words, methods, layers, kind))
    return "\n".join(parts) + "\n"


def _costs(rows: list[dict], methods: list[str], layers: tuple[int, ...]) -> str:
    """Means over folds and seeds: which layers are kept differs."""
    lines = ["| method | thousand parameters | MFLOPs a second of speech |"]
    lines.append("|---|---:|---:|")
    for method in methods:
        cells = []
        for key, unit in (("parameters", 1000), ("mflops", 1)):
            runs = [_rows(rows, method, size).values() for size in layers]
            means = [np.mean([run[key] for run in found]) for found in runs if found]
            cells.append(" / ".join(f"{mean / unit:.0f}" for mean in means))
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _blocks(layers: tuple[int, ...]) -> str:
    return ", ".join(str(count // 4) for count in layers)


def _table(rows, words, methods, layers, kind) -> str:
    names = ("small", "middle", "full")
    lines = ["| method | folds × seeds | " + " | ".join(names) + " | mean ratio |"]
    lines.append("|---|---:" + "|---:" * (len(names) + 1) + "|")
    for method in methods:
        cells, ratios = [], []
        for size in layers:
            result = compared(rows, words, base_of(method), method, size, kind)
            if result is None:
                cells.append("–")
                continue
            cell = f"{100 * result.second:.1f}"
            if method != base_of(method):
                ratios.append(result.second / result.first)
                cell += f" ({ratios[-1]:.2f}, p {_p_value(result)})"
            cells.append(cell)
        count = len(_rows(rows, method, layers[-1]) or _rows(rows, method, layers[0]))
        mean = f"{np.mean(ratios):.3f}" if len(ratios) == len(layers) else "–"
        lines.append(f"| {method} | {count} | " + " | ".join([*cells, mean]) + " |")
    return "\n".join(lines) + "\n"


def _p_value(result: Comparison) -> str:
    return "< 0.001" if result.p_value < 0.001 else f"{result.p_value:.3f}"


def rate(
    rows: list[dict], words: dict, method: str, layers: int, kind: str
) -> Comparison | None:
    """`second`: a method's error rate, over all folds and seeds, with its interval."""
    return compared(rows, words, None, method, layers, kind)


def compared(
    rows: list[dict],
    words: dict,
    base: str | None,
    method: str,
    layers: int,
    kind: str,
) -> Comparison | None:
    """A method next to another one, over the folds and seeds that both have run.

    Next to None, it is compared with no errors.
    """
    ours = _rows(rows, method, layers)
    none = {run: {"errors": {kind: [0] * len(words[run.fold][kind])}} for run in ours}
    sides = [none if base is None else _rows(rows, base, layers), ours]
    folds: dict[str, list[Run]] = {}
    for run in sorted(sides[0].keys() & sides[1].keys()):
        folds.setdefault(run.fold, []).append(run)
    if not folds:
        return None
    speakers = [f"{fold} {s}" for fold in folds for s in words[fold][_of(kind)]]
    names, of_speaker = np.unique(speakers, return_inverse=True)

    def sums(counts: list) -> np.ndarray:
        """By speaker. One is drawn with all seeds: they do not make more speakers."""
        return np.bincount(of_speaker, np.concatenate(counts), len(names)).astype(int)

    errors = [
        [sum(np.array(side[run]["errors"][kind]) for run in f) for f in folds.values()]
        for side in sides
    ]
    counts = [len(f) * np.array(words[fold][kind]) for fold, f in folds.items()]
    return paired_bootstrap(*map(sums, errors), sums(counts))


def _of(kind: str) -> str:
    return "dev_speakers" if kind.startswith("dev_") else "speakers"


def _rows(rows: list[dict], method: str, layers: int) -> dict[Run, dict]:
    return {
        Run(row["fold"], row["seed"]): row
        for row in rows
        if (row["method"], row["layers"]) == (method, layers)
    }
