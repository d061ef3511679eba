"""The tables of an4_family.py's rows."""

from pathlib import Path
from statistics import mean, median

from an4_methods import (
    ALONE,
    FAMILIES,
    FINE_TUNED,
    INDIVIDUAL,
    MODELS,
    NARROW,
    SELECTORS,
    TRAINING,
    WIDE,
)
from an4_pictures import plot_layers, plot_wer
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
    if folds:
        plot_wer(folds, words, path.with_suffix(".png"))
        plot_layers(folds, path.with_name(f"{path.stem}_layers.png"))


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
