"""The tables and pictures of an4_family.py's rows."""

from pathlib import Path

from an4_pictures import plot_layers, plot_wer
from folds import OFFICIAL
from pooled import pooled_tables


def write_tables(rows: list[dict], words: dict, path: Path) -> None:
    """Write `path` with .md and .png, and the picture of the layers beside it.

    The official split has speakers of all folds: it stands by itself.
    """
    folds = [row for row in rows if row["fold"] != OFFICIAL]
    official = [row for row in rows if row["fold"] == OFFICIAL]
    text = ""
    if folds:
        text += pooled_tables("Folds of AN4's speakers", folds, words)
        plot_wer(folds, words, path.with_suffix(".png"))
        plot_layers(folds, path.with_name(f"{path.stem}_layers.png"))
    if official:
        text += pooled_tables("AN4's official split", official, words)
    path.with_suffix(".md").write_text(text)
