"""The tables and the picture of an4_sparsity.py's rows."""

from pathlib import Path
from statistics import mean

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from pooled import KINDS, compared, rate

# The methods that the tables or the picture treat in a way of their own
DENSE, NARROW, ONE_SHOT = "dense", "narrow", "one-shot"
PRUNED, OMNI = "pruned to each", "all sparsities at once"
EM_SOFT, BOTH = "MEST EM&S", "sizes and sparsities"
_NOTE = """\
Error rates in %, pooled over the utterances of the folds and seeds; dev chooses the
epochs that are averaged. In brackets the ratio to a network that is trained for this
sparsity alone (`pruned to each`; at 0 the dense one), over the folds and seeds that
both have run, and the p-value of no difference (paired bootstrap over speakers; 10,000
draws). All have a full training, and `one-shot` a quarter of one after that of the
dense network. Of `narrow`, the sparsity is the one that leaves as many bytes."""


def write_tables(rows: list[dict], words: dict, path: Path) -> None:
    """Write `path` with .md and .png."""
    # What `pooled` calls layers is any point of a method's curve.
    rows = [row | {"layers": (row["size"], row["sparsity"])} for row in rows]
    full = [row for row in rows if row["size"] == 100]
    levels = sorted({row["sparsity"] for row in full})
    methods = list(dict.fromkeys(row["method"] for row in full))
    parts = ["# Weight sparsity on AN4\n", _NOTE + "\n"]
    parts += ["## Kilobytes of a model's file\n", _bytes(full, methods, levels)]
    for kind, name in KINDS.items():
        parts += [f"## {name}\n", _table(full, words, methods, levels, kind)]
    both = [row for row in rows if row["method"] == BOTH]
    if both:
        parts += ["## Sizes and sparsities of one training\n", _both(both, words)]
    path.with_suffix(".md").write_text("\n".join(parts))
    if rows:
        _plot(rows, words, path.with_suffix(".png"))


def _header(first: str, levels: list[int]) -> list[str]:
    cells = [first, "folds × seeds", *(f"sparsity {level}" for level in levels)]
    return [f"| {' | '.join(cells)} |", "|---|---:" + "|---:" * len(levels) + "|"]


def _of(rows: list[dict], method: str, point: tuple[int, int]) -> list[dict]:
    return [r for r in rows if r["method"] == method and r["layers"] == point]


def _bytes(rows, methods, levels) -> str:
    lines = _header("method", levels)
    for method in methods:
        found = [_of(rows, method, (100, level)) for level in levels]
        means = [mean(r["bytes"] for r in runs) / 1e3 if runs else 0 for runs in found]
        cells = [f"{number:.0f}" if number else "–" for number in means]
        lines.append(f"| {method} | {max(map(len, found))} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _table(rows, words, methods, levels, kind) -> str:
    lines = _header("method", levels)
    for method in methods:
        cells = [_cell(rows, words, method, level, kind) for level in levels]
        count = max(len(_of(rows, method, (100, level))) for level in levels)
        lines.append(f"| {method} | {count} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(rows, words, method, level, kind) -> str:
    point = (100, level)
    own = rate(rows, words, method, point, kind)
    if own is None:
        return "–"
    base = PRUNED if level else DENSE
    cell = f"{100 * own.second:.1f}"
    result = compared(rows, words, base, method, point, kind)
    if result is None or method == base:
        return cell
    return f"{cell} ({result.second / result.first:.2f}, p {result.p_value:.3f})"


def _both(rows, words) -> str:
    lines = ["| size | sparsity | kilobytes | test WER % | test CER % |"]
    lines.append("|---:|---:|---:|---:|---:|")
    for point in sorted({row["layers"] for row in rows}):
        kilobytes = mean(row["bytes"] for row in _of(rows, BOTH, point)) / 1e3
        rates = [rate(rows, words, BOTH, point, kind) for kind in ("wer", "cer")]
        cells = [f"{100 * r.second:.1f}" for r in rates]
        lines.append(
            f"| {point[0]} | {point[1]} | {kilobytes:.0f} | {' | '.join(cells)} |"
        )
    return "\n".join(lines) + "\n"


def _plot(rows, words, path: Path) -> None:
    """Pooled test WER against bytes, with bars of 95 %."""
    figure, axes = plt.subplots(figsize=(7, 4.5))
    curves = {m: [r for r in rows if r["method"] == m] for m in _shown(rows)}
    curves["sizes alone"] = [
        r for r in rows if r["method"] == BOTH and r["sparsity"] == 0
    ]
    for label, of_curve in curves.items():
        points = sorted({r["layers"] for r in of_curve})
        results = [
            rate(rows, words, r["method"], p, "wer")
            for p in points
            for r in of_curve[:1]
        ]
        x = [
            mean(r["bytes"] for r in of_curve if r["layers"] == p) / 1e3 for p in points
        ]
        if not x:
            continue
        y = np.array([100 * r.second for r in results])
        bars = abs(np.array([[100 * r.low, 100 * r.high] for r in results]).T - y)
        order = np.argsort(x)
        style = "o" if label == BOTH else "o-"
        axes.errorbar(
            np.array(x)[order],
            y[order],
            bars[:, order],
            fmt=style,
            capsize=3,
            label=label,
        )
    axes.set(xlabel="kilobytes", ylabel="WER %", xscale="log")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _shown(rows) -> list[str]:
    wanted = (DENSE, NARROW, OMNI, PRUNED, ONE_SHOT, EM_SOFT, BOTH)
    return [m for m in wanted if any(row["method"] == m for row in rows)]
