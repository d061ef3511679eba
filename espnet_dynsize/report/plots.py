"""Pictures of a family."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from espnet_dynsize.core.files import replacing
from espnet_dynsize.encoder.kinds import KINDS
from espnet_dynsize.report.decodings import labels
from espnet_dynsize.report.table import Row

INCHES_A_MODEL = 1.6
LETTERS_A_LINE = 20  # of a model's name above its INCHES_A_MODEL


def wer_figure(rows: Sequence[Row]) -> Figure | None:
    """WER against parameters, a line a test set; None where nothing is scored."""
    columns = labels(name for row in rows for name in row.scores)
    if not columns:
        return None
    figure = Figure(figsize=(6, 4 + 0.2 * len(columns)), layout="constrained")
    axes = figure.add_subplot()
    for name, label in columns.items():
        scored = [row for row in rows if name in row.scores]
        x = [row.parameters / 1e6 for row in scored]
        y = [100 * row.scores[name].wer for row in scored]
        # Without the space, matplotlib would leave out a name that begins with _.
        axes.plot(x, y, "o-", label=" " + _wrapped(label, 3 * LETTERS_A_LINE))
        for row, *place in zip(scored, x, y):
            axes.annotate(
                f"{row.layers}", place, xytext=(4, 4), textcoords="offset points"
            )
    # Room for the labels of the outermost points
    axes.margins(x=0.1)
    highest = max(100 * score.wer for row in rows for score in row.scores.values())
    axes.set_ylim(0, 1.15 * highest or 1)
    axes.set(xlabel="million parameters", ylabel="WER %", title="labels: layers")
    axes.grid(alpha=0.3)
    for text in figure.legend(loc="outside lower center").get_texts():
        text.set_parse_math(False)  # a $ is a $
    return figure


def layers_figure(rows: Sequence[Row]) -> Figure:
    """Which layers each model keeps: block × kind of layer."""
    blocks = max(len(row.kept) for row in rows)
    there_are = {kind for row in rows for block in row.kept for kind in block}
    kinds = {name: kind.label for name, kind in KINDS.items() if name in there_are}
    size = (1.2 + INCHES_A_MODEL * len(rows), 2.4 + 0.3 * blocks)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(1, len(rows), squeeze=False, sharey=True)
    for axes, row in zip(grid[0], rows):
        cells = [[kind in kept for kind in kinds] for kept in row.kept]
        if kinds:
            axes.pcolormesh(cells, cmap="Blues", vmin=0, vmax=1.3, edgecolors="white")
        name = _wrapped(row.name, LETTERS_A_LINE)
        axes.set_title(f"{name}\n{row.layers} layers", fontsize=8, parse_math=False)
        places = [i + 0.5 for i in range(len(kinds))]
        axes.set_xticks(places, kinds.values(), rotation=90)
        axes.set_ylim(0, blocks)
    grid[0][0].set_yticks([i + 0.5 for i in range(blocks)], range(1, blocks + 1))
    grid[0][0].set_ylabel("block")
    return figure


def _wrapped(name: str, width: int) -> str:
    return textwrap.fill(name, width, break_on_hyphens=False)


def save(figure: Figure, path: Path) -> None:
    """Write a picture, whole, with all that is drawn.

    Raises:
        ConfigError: another file is there.
    """
    with replacing(path) as partial:
        # "tight" also takes in what has not found room within the figure.
        figure.savefig(partial, format="png", dpi=120, bbox_inches="tight")
