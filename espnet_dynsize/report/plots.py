"""Pictures of a family."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from espnet_dynsize.encoder.kinds import KINDS  # noqa: E402
from espnet_dynsize.report.table import Row  # noqa: E402


def plot_wer(rows: Sequence[Row], path: Path) -> bool:
    """WER against parameters, a line a test set; False where nothing is scored."""
    sets = sorted({name for row in rows for name in row.scores})
    if not sets:
        return False
    figure, axes = plt.subplots(figsize=(6, 4))
    for name in sets:
        scored = [row for row in rows if name in row.scores]
        x = [row.parameters / 1e6 for row in scored]
        axes.plot(x, [100 * row.scores[name].wer for row in scored], "o-", label=name)
        for row, million in zip(scored, x):
            axes.annotate(f"{row.layers}", (million, 100 * row.scores[name].wer))
    axes.set(xlabel="million parameters", ylabel="WER %", title="labels: layers")
    axes.set_ylim(bottom=0)
    axes.legend()
    axes.grid(alpha=0.3)
    _save(figure, path)
    return True


def plot_layers(rows: Sequence[Row], path: Path) -> None:
    """Which layers each model keeps: block × kind of layer."""
    blocks = max(len(row.kept) for row in rows)
    there_are = {kind for row in rows for block in row.kept for kind in block}
    kinds = {name: kind.label for name, kind in KINDS.items() if name in there_are}
    figure, grid = plt.subplots(
        1,
        len(rows),
        figsize=(1.2 + 1.6 * len(rows), 1.2 + 0.3 * blocks),
        squeeze=False,
        sharey=True,
    )
    for axes, row in zip(grid[0], rows):
        cells = [[kind in kept for kind in kinds] for kept in row.kept]
        axes.pcolormesh(cells, cmap="Blues", vmin=0, vmax=1.3, edgecolors="white")
        axes.set_title(f"{row.layers} layers", fontsize=9)
        places = [i + 0.5 for i in range(len(kinds))]
        axes.set_xticks(places, kinds.values(), rotation=90)
        axes.set_ylim(0, blocks)
    grid[0][0].set_yticks([i + 0.5 for i in range(blocks)], range(1, blocks + 1))
    grid[0][0].set_ylabel("block")
    _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
