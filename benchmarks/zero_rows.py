"""Time of a linear layer without its rows or columns of zeros, next to all of it.

    python benchmarks/zero_rows.py [--repeats 200]

From it follow the shares in `encoder/reduced.py` from which on zeros are left out. One
CPU thread, 250 frames, the median of the repeats; layers take turns.
"""

import argparse
import copy
import statistics

import torch
from bench import RESULTS
from torch.utils.benchmark import timer

from espnet_dynsize.encoder import reduced

SHAPES = ((384, 96), (96, 384), (96, 96), (1024, 256), (2048, 512))  # outputs, inputs
SHARES = (0.25, 0.5, 0.8)
FRAMES = 250


def without(layer: torch.nn.Linear, kind: str, share: float) -> torch.nn.Module:
    """The layer with a random share of its rows or columns zero, and left out."""
    made = torch.nn.Sequential(copy.deepcopy(layer))
    weight = made[0].weight.detach()
    weight = weight if kind == "rows" else weight.t()
    weight[torch.randperm(len(weight))[: round(share * len(weight))]] = 0
    reduced.remove_zeros(made)
    return made


def ratios(layers: list, x: torch.Tensor, repeats: int) -> list[float]:
    """Median time of each, relative to the first."""
    times: list[list[float]] = [[] for _ in layers]
    for _ in range(repeats + 1):
        for layer, measured in zip(layers, times):
            start = timer()
            layer(x)
            measured.append(timer() - start)
    medians = [statistics.median(measured[1:]) for measured in times]
    return [median / medians[0] for median in medians]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # All of them, to see where it begins to pay
    reduced.ROWS = reduced.COLUMNS = 1e-9
    kinds = [(kind, share) for kind in ("rows", "columns") for share in SHARES]
    heads = [f"{share} of {kind}" for kind, share in kinds]
    lines = ["| outputs x inputs | " + " | ".join(heads) + " |"]
    lines.append("|---|" + "---:|" * len(kinds))
    for outputs, inputs in SHAPES:
        layer = torch.nn.Linear(inputs, outputs)
        layers = [layer, *(without(layer, *kind) for kind in kinds)]
        with torch.no_grad():
            found = ratios(layers, torch.randn(1, FRAMES, inputs), args.repeats)
        cells = [f"{ratio:.2f}" for ratio in found[1:]]
        lines.append(f"| {outputs} x {inputs} | " + " | ".join(cells) + " |")
    text = "\n".join(lines) + "\n"
    (RESULTS / "zero_rows.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
