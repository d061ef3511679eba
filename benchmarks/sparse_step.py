"""Memory and time of a step of sparse training, next to the dense network's.

    python benchmarks/sparse_step.py [--repeats 15] [--threads 1] [--device cpu]

Trains `train_asr_mest.yaml`, and `train_asr_omni_sparsity.yaml` with all its
sparsities, on one batch (8 utterances of 3 s and more) with Adam, each
model a step in turn; a time is the median ratio to the dense network's step in the same
turn. The state of the matrices is what there is between two steps: parameters,
gradients, Adam's moments and the groups' places. Peak memory counts activations, too.
"""

import json
import statistics

import torch
from an4_methods import CONF
from joint_step import (
    HERE,
    batch,
    build,
    machine_of,
    peak_bytes,
    step_parser,
    timed_step,
)

import espnet_dynsize
from espnet_dynsize.control.selection import Phase
from espnet_dynsize.core.keys import FAMILY_KEYS
from espnet_dynsize.core.yaml_base import load_config
from espnet_dynsize.encoder.stored import Stored

TOTAL = 1000  # updates of the run; none of those that are timed mutates
FAMILY = "family of 0 to 0.9"
MODELS = {
    "dense": None,
    "EM, 0.8": dict(target=0.8, variant="em", mutation=[0.02, 0.01]),
    "EM&S, 0.8": dict(target=0.8, variant="em_s", mutation=[0.05, 0.025]),
    "EM, 0.9": dict(target=0.9, variant="em", mutation=[0.02, 0.01]),
    "EM&S, 0.9": dict(target=0.9, variant="em_s", mutation=[0.05, 0.025]),
    FAMILY: {},
}


def model_of(args, name: str) -> torch.nn.Module:
    """A model that is about to train."""
    sparsity = MODELS[name]
    if name == FAMILY:
        model = build(args, {}, **load_config(CONF / "train_asr_omni_sparsity.yaml"))
        model.schedule.plan(TOTAL)
        while model.schedule.phase is not Phase.JOINT:  # all sparsities train
            model.begin_update(0)
    elif sparsity is None:
        changes = {"model_conf": dict.fromkeys(FAMILY_KEYS)}
        model = build(args, changes, model="espnet", encoder="conformer")
    else:
        given = {"method": "mest", "pattern": "4x1", "interval": 0.9, **sparsity}
        given["stages"] = [0.95, 0.99]
        model = build(args, {"model_conf": {"sparsity": given}})
        model.schedule.plan(TOTAL)
        model.begin_training(0)
    return model.to(args.device)


def matrices(args) -> list[str]:
    """Names of the matrices that are sparse in the others."""
    sparsity = model_of(args, "EM, 0.9").schedule.sparsity
    return list(sparsity.patterns)


def state_bytes(model, optimizer, names: list[str]) -> int:
    """Bytes of the matrices' parameters, gradients, moments and places."""
    total = 0
    for name in names:
        matrix = model.encoder.get_submodule(name)
        kept = [matrix.weight, matrix.weight.grad]
        kept += list(optimizer.state[matrix.weight].values())
        if isinstance(matrix, Stored):
            kept.append(matrix.places())
        total += sum(tensor.nbytes for tensor in kept)
    return total


def measured(args, names: list[str]) -> list[dict]:
    """A row for each model."""
    data, trained = batch(args), {}
    for name in MODELS:
        model = model_of(args, name)
        trained[name] = model, torch.optim.Adam(model.parameters())
    rows = []
    for name, (model, optimizer) in trained.items():
        peak = peak_bytes(model, optimizer, data, args.amp)
        # The gradients that a step leaves are gone after it: count them as they were.
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        rows.append(dict(name=name, peak=peak, ratios=[]))
        rows[-1]["state"] = state_bytes(model, optimizer, names)
        optimizer.zero_grad()
    for turn in range(args.repeats + 1):
        times = [timed_step(*each, data, args.amp) for each in trained.values()]
        for row, seconds in zip(rows, times) if turn else ():  # 0 warms up
            row["ratios"].append(seconds / times[0])
    for row in rows:
        row["time"] = round(statistics.median(row.pop("ratios")), 3)
    return rows


def markdown(rows: list[dict]) -> str:
    first = rows[0]
    lines = ["| network | state of the matrices | peak of a step | time of a step |"]
    lines.append("|---|---:|---:|---:|")
    for row in rows:
        ratios = [row[key] / first[key] for key in ("state", "peak", "time")]
        lines.append(
            f"| {row['name']} | " + " | ".join(f"{r:.2f}" for r in ratios) + " |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    args = step_parser(__doc__).parse_args()
    args.config, args.tokens, args.seconds = CONF / "train_asr_mest.yaml", 30, 3.0
    torch.set_num_threads(args.threads)
    espnet_dynsize.register()
    rows = measured(args, matrices(args))
    result = dict(
        machine=machine_of(args), repeats=args.repeats, amp=args.amp, rows=rows
    )
    path = HERE / "results" / "sparse_step.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(rows))
    print(markdown(rows))


if __name__ == "__main__":
    main()
