"""The pictures of an4_family.py's rows."""

from pathlib import Path
from statistics import mean

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from an4_methods import INDIVIDUAL, KINDS, SELECTION, WIDE
from pooled import compared, rate

# Methods with more errors, in the mean over sizes, than this times those of the models
# trained alone would take the picture's scale from the others: only named
MOST = 1.25
NAMES = ("small", "middle", "full")


def plot_wer(rows: list[dict], words: dict, path: Path) -> None:
    """Pooled test WER, and its difference from the models trained alone."""
    methods = [m for m in SELECTION if any(row["method"] == m for row in rows)]
    results = {
        m: [compared(rows, words, INDIVIDUAL, m, n, "wer") for n in WIDE]
        for m in methods
    }
    results = {m: sizes for m, sizes in results.items() if None not in sizes}
    shown = {
        m: sizes
        for m, sizes in results.items()
        if mean(size.second / size.first for size in sizes) <= MOST
    }
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    for method in (INDIVIDUAL, *shown):
        _rates(left, rows, words, method)
    _differences(right, shown)
    left.set(xlabel="thousand parameters", ylabel="WER %")
    right.set(ylabel="WER, points more than trained alone")
    others = ", ".join(m for m in results if m not in shown)
    if others:
        right.set_title(f"not shown, over {MOST} times as many: {others}", fontsize=7)
    for axes in (left, right):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _rates(axes: plt.Axes, rows: list[dict], words: dict, method: str) -> None:
    """WER against parameters, with bars from the 2.5th to the 97.5th percentile."""
    of_method = [row for row in rows if row["method"] == method]
    x, results = [], []
    for layers in WIDE:
        sizes = [r["parameters"] / 1e3 for r in of_method if r["layers"] == layers]
        result = rate(rows, words, method, layers, "wer")
        if result is not None:
            x.append(mean(sizes))
            results.append(result)
    y = np.array([100 * r.second for r in results])
    bars = abs(np.array([[100 * r.low, 100 * r.high] for r in results]).T - y)
    style = "ks--" if method == INDIVIDUAL else "o-"
    axes.errorbar(x, y, bars, fmt=style, capsize=3, label=method)


def _differences(axes: plt.Axes, results: dict) -> None:
    """With the intervals of the paired bootstrap, which are those of the tables."""
    axes.axhline(0, color="k", linestyle="--", label=INDIVIDUAL)
    for place, (method, sizes) in enumerate(results.items()):
        y = np.array([100 * (r.second - r.first) for r in sizes])
        bars = abs(np.array([[100 * r.low, 100 * r.high] for r in sizes]).T - y)
        x = np.arange(len(sizes)) + 0.12 * (place - (len(results) - 1) / 2)
        axes.errorbar(x, y, bars, fmt="o", capsize=3, label=method)
    axes.set_xticks(range(len(NAMES)), NAMES)


def plot_layers(rows: list[dict], path: Path) -> None:
    """Share of the runs in which each layer is kept: method × size, block × kind."""
    kept = [r for r in rows if r["method"] in SELECTION and r["kept"]]
    if not kept:
        return
    methods = [m for m in SELECTION if any(r["method"] == m for r in kept)]
    sizes = {"small": WIDE[0], "middle": WIDE[1]}
    blocks = (max(max(r["kept"]) for r in kept) + 1) // len(KINDS)
    figure, grid = plt.subplots(
        len(sizes),
        len(methods),
        figsize=(1 + 1.5 * len(methods), 1.2 + 1.7 * len(sizes)),
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    for column, method in enumerate(methods):
        for line, (size, layers) in enumerate(sizes.items()):
            runs = [r for r in kept if r["method"] == method and r["layers"] == layers]
            axes = grid[line][column]
            axes.pcolormesh(_shares(runs, blocks), cmap="Blues", vmin=0, vmax=1)
            axes.set_title(f"{method}\n{size}, {len(runs)} runs", fontsize=7)
            places = [i + 0.5 for i in range(len(KINDS))]
            axes.set_xticks(places, KINDS, rotation=90, fontsize=7)
            axes.set_yticks([i + 0.5 for i in range(blocks)], range(1, blocks + 1))
    for axes in grid[:, 0]:
        axes.set_ylabel("block")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _shares(rows: list[dict], blocks: int) -> list[list[float]]:
    return [
        [mean(block * len(KINDS) + i in r["kept"] for r in rows) for i in range(4)]
        for block in range(blocks)
    ]
