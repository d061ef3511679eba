"""The tables and pictures of an4_family.py's rows."""

from pathlib import Path
from statistics import mean, median

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from an4_methods import (
    ALONE,
    FAMILIES,
    FINE_TUNED,
    INDIVIDUAL,
    KINDS,
    MODELS,
    NARROW,
    SELECTORS,
    TRAINING,
    WIDE,
)
from pooled import pooled_tables

MEASURES = {
    "wer": "test WER",
    "cer": "test CER",
    "dev_wer": "dev WER",
    "dev_cer": "dev CER",
}


def write_tables(rows: list[dict], words: dict, path: Path) -> None:
    """Write `path` with .md and .png, and the picture of the layers beside it."""
    folds = [row for row in rows if row["fold"] != "official"]
    rows = [row for row in rows if row["fold"] == "official"]
    text = pooled_tables(folds, words) if folds else ""
    path.with_suffix(".md").write_text(text + markdown(rows))
    plot_wer(rows, path.with_suffix(".png"))
    plot_layers(rows, path.with_name(f"{path.stem}_layers.png"))


def markdown(rows: list[dict]) -> str:
    tables = {
        "Sizes with as many parameters as Conformers of 1, 3 and 6 blocks": _table(
            rows, WIDE, (*SELECTORS, ALONE, *TRAINING, *FAMILIES, FINE_TUNED)
        ),
        "Other encoders and decoders, next to Conformers of 2, 4 and 6 blocks": _table(
            rows, NARROW, tuple(MODELS)
        ),
    }
    parts = [f"## {title}\n\n{table}" for title, table in tables.items() if table]
    return "\n".join([f"{_NOTE}\n", *parts])


_NOTE = (
    "Error rates in %, medians over seeds; dev chooses the epochs that are averaged. "
    "Ratio: mean over sizes of the method's median divided by that of the individually "
    "trained models. Every run is a row of an4_family.jsonl."
)


def _table(rows: list[dict], layers: tuple[int, ...], methods: tuple[str, ...]) -> str:
    """The methods that have rows, next to Conformers of `layers` trained alone."""
    methods = [m for m in methods if any(row["method"] == m for row in rows)]
    alone = [r for r in rows if r["method"] == INDIVIDUAL and r["layers"] in layers]
    if not methods or not alone:
        return ""
    header = ["method", "seeds", "thousand parameters", "MFLOPs a second"]
    for name in MEASURES.values():
        header += [name, "ratio"]
    lines = ["| " + " | ".join(header) + " |"]
    lines.append("|---" + "|---:" * (len(header) - 1) + "|")
    for method in (INDIVIDUAL, *methods):
        chosen = [r for r in rows if r["method"] == method and r["layers"] in layers]
        cells = _cells(chosen, alone, sorted({row["layers"] for row in chosen}))
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cells(chosen: list[dict], alone: list[dict], layers: list[int]) -> list[str]:
    seeds = sorted({sum(row["layers"] == n for row in chosen) for n in layers})
    sizes = [_median(chosen, n, "parameters") / 1000 for n in layers]
    flops = [_median(chosen, n, "mflops") for n in layers]
    cells = ["–".join(map(str, seeds)), _slashed(sizes, 0), _slashed(flops, 0)]
    for kind in MEASURES:
        errors = [_median(chosen, n, kind) for n in layers]
        base = [_median(alone, n, kind) for n in layers]
        cells.append(_slashed(errors, 1))
        cells.append(f"{mean(a / b for a, b in zip(errors, base)):.3f}")
    return cells


def _slashed(values: list[float], digits: int) -> str:
    return " / ".join(f"{value:.{digits}f}" for value in values)


def _median(rows: list[dict], layers: int, kind: str) -> float:
    return median(row[kind] for row in rows if row["layers"] == layers)


def plot_wer(rows: list[dict], path: Path) -> None:
    """WER against parameters: a line of medians a method, a dot a run."""
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for method in (INDIVIDUAL, *SELECTORS, "published joint step"):
        runs = [row for row in rows if row["method"] == method]
        if not runs:
            continue
        layers = sorted({row["layers"] for row in runs} & {*WIDE})
        x = [_median(runs, n, "parameters") / 1e3 for n in layers]
        style = "ks--" if method == INDIVIDUAL else "o-"
        y = [_median(runs, n, "wer") for n in layers]
        (line,) = axes.plot(x, y, style, label=method)
        dots = [
            (r["parameters"] / 1e3, r["wer"]) for r in runs if r["layers"] in layers
        ]
        axes.plot(*zip(*dots), ".", color=line.get_color(), alpha=0.5)
    axes.set(xlabel="thousand parameters", ylabel="WER % on AN4 test")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_layers(rows: list[dict], path: Path) -> None:
    """Share of the seeds in which each layer is kept: method × size, block × kind."""
    kept = [r for r in rows if r["method"] in SELECTORS and r["kept"]]
    if not kept:
        return
    methods = [m for m in SELECTORS if any(r["method"] == m for r in kept)]
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
            axes.set_title(f"{method}\n{size}", fontsize=7)
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
