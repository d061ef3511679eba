"""Time and peak memory of a supernet's training step, next to stock models.

    python benchmarks/joint_step.py [--repeats 15] [--threads 1] [--device cpu]

All models take turns, a step each, on the same batch (8 utterances of about 3 s). A
ratio is the median over turns of the time divided by the full stock model's in the same
turn. The sizes are those of an4_family.py: of as many parameters as 6, 3 and 1 blocks.
The joint phase keeps the layers that a search has found; in the search, whose cost
depends on k, it is the mean of ten k from the largest to the smallest. Peak memory
counts parameters, gradients, optimiser state and activations.
"""

import argparse
import contextlib
import json
import platform
import statistics
import time
from pathlib import Path

import torch
import yaml
from an4_methods import CONF, KINDS, WIDE
from torch.distributed._tools.mem_tracker import MemTracker

import espnet_dynsize
from espnet_dynsize.model import DISTILL_WEIGHT
from espnet_dynsize.task import DynSizeASRTask

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "joint_step"
TOKENS = ["<blank>", "<unk>", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "<space>", "<sos/eos>"]
SEARCH_UPDATES = 10
# Best layers first, as a search on AN4 has ranked them
RANKING = [21, 18, 14, 5, 13, 10, 6, 9, 22, 17, 23, 20]
RANKING += [19, 16, 4, 15, 12, 8, 7, 2, 11, 1, 0, 3]
SOFT = {"selector_conf": {"straight_through": False}}
FIRST = {"selector": "first", "selector_conf": {}}
WHOLE = {"subnet_cost": 1.0, "alternate": False, "distill_weight": 0.0}
ALTERNATING = {"alternate": True, "distill_weight": DISTILL_WEIGHT}
# Name → model_conf, encoder_conf; the first is the plain way of doing it.
VARIANTS = {
    "one after another, soft gates": (WHOLE | {"joint_pass": "sequential"}, SOFT),
    "one after another": (WHOLE | {"joint_pass": "sequential"}, {}),
    "one pass": (WHOLE, {}),
    "one pass, alternating": (WHOLE | {"alternate": True}, {}),
    "alternating with distillation": (WHOLE | ALTERNATING, {}),
    "the same with subnet_cost 0.7": (WHOLE | ALTERNATING | {"subnet_cost": 0.7}, {}),
    "the same with subnet_cost 0.5": (WHOLE | ALTERNATING | {"subnet_cost": 0.5}, {}),
    "the same with subnet_cost 0.3": (WHOLE | ALTERNATING | {"subnet_cost": 0.3}, {}),
    "one pass, norms per size": (WHOLE, {"norm_per_size": True}),
    "one pass, layers dropped with 0.4": (
        WHOLE,
        {"layer_drop_joint": 0.4, "layer_drop_search": 0.4},
    ),
    "one pass, lowest layers": (WHOLE, FIRST),
    "default, lowest layers": ({}, FIRST),
}


def build(config_file: str, model_conf=None, **encoder_changes):
    config = DynSizeASRTask.get_default_config()
    config |= yaml.safe_load((CONF / config_file).read_text())
    config |= {"token_list": TOKENS, "normalize": "utterance_mvn"}
    config["encoder_conf"] = {**config["encoder_conf"], **encoder_changes}
    config["model_conf"] = {**config["model_conf"], **(model_conf or {})}
    return DynSizeASRTask.build_model(argparse.Namespace(**config)).train()


def supernet(phase: str, model_conf: dict, **changes):
    """A supernet in the given phase."""
    model = build("train_asr_dynsize.yaml", model_conf, **changes)
    for scores in model.schedule.selector.parameters():
        scores.data.fill_(0.0)
        for place, layer in enumerate(RANKING):
            scores.data[layer] = 1.0 - 0.01 * place
    if phase == "joint":
        model.schedule.fixed_masks.copy_(model.schedule.selector.masks())
    else:
        model.schedule.search_updates.fill_(SEARCH_UPDATES)
    return model


def models() -> dict:
    """Name → model ready to train; the full stock model is first."""
    found = {
        f"stock, {blocks} blocks": build("train_asr_conformer.yaml", num_blocks=blocks)
        for blocks in (layers // len(KINDS) for layers in reversed(WIDE))
    }
    for phase in ("search", "joint"):
        for name, (model_conf, changes) in VARIANTS.items():
            if changes != (FIRST if phase == "search" else SOFT):
                found[f"{phase}: {name}"] = supernet(phase, model_conf, **changes)
    return found


def batch(device: str) -> dict:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.arange(48000, 48000 + 8 * 400, 400)
    data = dict(
        speech=torch.randn(8, int(lengths.max()), generator=generator),
        speech_lengths=lengths,
        text=torch.randint(2, 28, (8, 20), generator=generator),
        text_lengths=torch.full((8,), 20),
    )
    return {key: value.to(device) for key, value in data.items()}


def step(model, optimizer, data) -> None:
    schedule = getattr(model, "schedule", None)
    if schedule is not None:
        if schedule.fixed_masks.isnan().any():
            # Go round in the search.
            schedule.update.fill_(float(schedule.update.item()) % SEARCH_UPDATES)
        model.begin_update(seed=0)
    model(**data)[0].sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def timed_step(model, optimizer, data, device: str) -> float:
    synchronise = torch.cuda.synchronize if device == "cuda" else contextlib.nullcontext
    synchronise()
    start = time.perf_counter()
    step(model, optimizer, data)
    synchronise()
    return time.perf_counter() - start


def peak_bytes(model, optimizer, data, device: str) -> int:
    """Highest of two steps; the first ones of the search are the largest."""
    peak = 0
    for _ in range(2):
        tracker = MemTracker()
        tracker.track_external(model, optimizer, *data.values())
        with tracker:
            step(model, optimizer, data)
        snapshot = tracker.get_tracker_snapshot("peak")
        peak = max(peak, *(own["Total"] for own in snapshot.values()))
    return peak


def time_ratios(found: dict, optimizers: dict, data, repeats: int, device: str) -> dict:
    """Name → time relative to the first model: median over turns, mean over k."""
    names = list(found)
    ratios: dict = {name: [[] for _ in range(SEARCH_UPDATES)] for name in names}
    for turn in range(repeats + 1):
        for place in range(SEARCH_UPDATES):
            times = {
                n: timed_step(found[n], optimizers[n], data, device) for n in names
            }
            for name, seconds in times.items() if turn > 0 else ():  # 0 warms up
                ratios[name][place].append(seconds / times[names[0]])
    return {
        name: statistics.mean(statistics.median(own) for own in places)
        for name, places in ratios.items()
    }


def markdown(rows: list[dict]) -> str:
    lines = ["| training step | time | peak memory |", "|---|---:|---:|"]
    lines += [f"| {r['name']} | {r['time']:.2f} | {r['memory']:.2f} |" for r in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    espnet_dynsize.register()
    found = {name: model.to(args.device) for name, model in models().items()}
    optimizers = {n: torch.optim.Adam(m.parameters()) for n, m in found.items()}
    data = batch(args.device)
    peaks = {
        n: peak_bytes(m, optimizers[n], data, args.device) for n, m in found.items()
    }
    ratios = time_ratios(found, optimizers, data, args.repeats, args.device)
    base_peak = next(iter(peaks.values()))
    rows = [
        dict(name=name, time=round(ratio, 3), memory=round(peaks[name] / base_peak, 3))
        for name, ratio in ratios.items()
    ]
    machine = f"{platform.machine()} CPU, {args.threads} thread(s)"
    if args.device == "cuda":
        machine = torch.cuda.get_device_name()
    result = dict(machine=machine, repeats=args.repeats, rows=rows)
    RESULT.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    RESULT.with_suffix(".md").write_text(markdown(rows))
    print(markdown(rows))


if __name__ == "__main__":
    main()
