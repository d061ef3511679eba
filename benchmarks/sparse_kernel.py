"""Time of sparse matrices on a CPU: a product, and a whole encoder.

    python benchmarks/sparse_kernel.py [--repeats 15]

One thread, groups of `4x1` (and `8x1`, which are two of these) chosen at random.
Products of T frames: the kernel next to PyTorch's dense product, in turns within a
repeat. Encoders: Conformers of 12 blocks with random weights, 10 s of features to the
tokens of CTC, next to ESPnet's dense encoder, in PyTorch with the kernel and as dense
ONNX files. Ratios are medians over repeats. Writes results/sparse_kernel.json and .md.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch
from inference import FORMS, MELS, RESULTS, build_model, config, forms, machine, turns

from espnet_dynsize.encoder.blocked import leave_out_zeros
from espnet_dynsize.encoder.sparse import is_matrix

FILE = RESULTS / "sparse_kernel.json"
SHAPES = ((96, 384), (256, 1024), (1024, 256), (512, 2048), (2048, 512))
FRAMES = (250, 16, 8)
SPARSITIES = (0.0, 0.5, 0.7, 0.8, 0.9)
DENSE = "PyTorch, dense"


def thin(weight: torch.Tensor, sparsity: float, rows: int = 4) -> None:
    """Make groups zero."""
    flat = weight.view(len(weight), -1)
    blocks = len(flat) // rows
    groups = torch.rand(blocks, flat.size(1)) >= sparsity
    flat *= groups.repeat_interleave(rows, dim=0)


def products(args) -> list[dict]:
    rows = []
    for inputs, outputs in SHAPES:
        for frames in FRAMES:
            x, calls = torch.randn(frames, inputs), {}
            for sparsity in SPARSITIES[1:]:
                for pattern in (4, 8):
                    ours = torch.nn.Linear(inputs, outputs).requires_grad_(False)
                    thin(ours.weight, sparsity, pattern)
                    # A sparser one is taken by itself.
                    leave_out_zeros(torch.nn.ModuleList([ours]))
                    calls[sparsity, pattern] = _call(ours, x)
            dense = torch.nn.Linear(inputs, outputs).requires_grad_(False)
            calls[DENSE] = _call(dense, x)
            ratios = turns(calls, DENSE, 10 * args.repeats)
            for (sparsity, pattern), ratio in list(ratios.items())[:-1]:
                row = dict(inputs=inputs, outputs=outputs, frames=frames)
                row |= dict(sparsity=sparsity, pattern=f"{pattern}x1")
                rows.append(row | dict(ratio=round(ratio, 2)))
    return rows


def _call(module, x):
    return lambda: module(x)


def encoders(width: int, args, folder: Path) -> list[dict]:
    torch.manual_seed(0)
    features = torch.randn(1, 1000, MELS)
    calls = {}
    for sparsity in SPARSITIES:
        model = build_model(config(width, "conv2d"))
        for module in model.encoder.encoders.modules():
            if is_matrix(module):
                thin(module.weight.data, sparsity)
        made = forms(model, folder, features)
        if sparsity == 0:
            for form in (FORMS[0], *FORMS[2:]):
                calls[sparsity, form] = made[form][0]
            continue
        number = leave_out_zeros(model.encoder)
        print(f"{width}: {number} matrices at {sparsity}", flush=True)
        calls[sparsity, "sparse"] = made[FORMS[0]][0]
    reference = 0.0, FORMS[0]
    return [
        dict(width=width, sparsity=key[0], form=key[1], ratio=round(ratio, 2))
        for key, ratio in turns(calls, reference, args.repeats).items()
    ]


def markdown(found: dict) -> str:
    lines = ["# Sparse matrices on one thread", ""]
    lines += ["How many times as fast as the dense product of PyTorch, `4x1` (`8x1`):"]
    lines += ["", "| inputs → outputs, frames | .5 | .7 | .8 | .9 |"]
    lines += ["|---|---:|---:|---:|---:|"]
    cells: dict[tuple, dict] = {}
    for r in found["products"]:
        key = r["inputs"], r["outputs"], r["frames"]
        cells.setdefault(key, {})[r["sparsity"], r["pattern"]] = r["ratio"]
    for (inputs, outputs, frames), ratios in cells.items():
        shown = [
            f"{ratios[s, '4x1']:.2f} ({ratios[s, '8x1']:.2f})" for s in SPARSITIES[1:]
        ]
        name = f"{inputs} → {outputs}, {frames}"
        lines.append(f"| {name} | {' | '.join(shown)} |")
    lines += [
        "",
        "1.00: by chance, more than half of the groups are left: it is dense.",
    ]
    lines += ["", "Whole encoders, features to tokens, next to ESPnet's dense one; the"]
    lines += ["front-end (`conv2d`) is dense:", ""]
    lines += ["| channels | form | sparsity | times as fast |", "|---:|---|---:|---:|"]
    for r in found["encoders"]:
        form = "PyTorch, sparse" if r["form"] == "sparse" else r["form"]
        ratio = f"{r['ratio']:.2f}"
        lines.append(f"| {r['width']} | {form} | {r['sparsity']:g} | {ratio} |")
    lines += ["", f"Machine: {found['on']}. Command: see the script's first lines."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 512])
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.no_grad():
        found = dict(products=products(args), on=machine())
        found["encoders"] = []
        for width in args.widths:
            with tempfile.TemporaryDirectory() as folder:
                found["encoders"] += encoders(width, args, Path(folder))
    FILE.write_text(json.dumps(found, indent=1) + "\n")
    FILE.with_suffix(".md").write_text(markdown(found))
    print(markdown(found))


if __name__ == "__main__":
    main()
