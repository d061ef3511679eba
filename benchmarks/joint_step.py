"""Time and peak memory of a supernet's training step, next to stock models.

    python benchmarks/joint_step.py [--repeats 15] [--threads 1] [--device cpu]
    LD_PRELOAD=libtcmalloc_minimal.so.4 python benchmarks/joint_step.py --name tcmalloc

All models take turns, a step each, on the same batch (8 utterances of about 3 s). A
ratio is the median over turns of the time divided by the full stock model's in the same
turn. Sizes and methods are those of an4_family.py, whose error rates stand beside them.
The joint phase keeps the layers that a search has found; in the search, whose cost
depends on k, it is the mean of twelve k from the largest to the smallest. Peak memory
counts parameters, gradients, optimiser state and activations. `--name X` writes
results/joint_step_X.md in place of results/joint_step.md.
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
from an4_family import read_rows
from an4_methods import CONF, INDIVIDUAL, KINDS, SUPERNETS, WIDE, config_file
from peak_memory import PeakMemory

import espnet_dynsize
from espnet_dynsize.train.task import DynSizeASRTask

HERE = Path(__file__).resolve().parent
TOKENS = ["<blank>", "<unk>", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "<space>", "<sos/eos>"]
# Divisible by 2 and 3, after which sizes that take turns come round
SEARCH_UPDATES = 12
# Best layers first, as a search on AN4 has ranked them
RANKING = [21, 18, 14, 5, 13, 10, 6, 9, 22, 17, 23, 20]
RANKING += [19, 16, 4, 15, 12, 8, 7, 2, 11, 1, 0, 3]
SEQUENTIAL = ", one after another"
VARIANTS = (
    "simple_top_k",
    "simple_top_k" + SEQUENTIAL,
    "simple_top_k, soft gates",
    "first",
    "no distillation",
    "not alternating",
    "layer_drop 0.3 in both phases",
    "pairs",
    "pairs, layer_drop 0.3",
    "norm_per_size",
    "one output layer",
    "published joint step",
    "published joint step" + SEQUENTIAL,
)
PHASES = ("search", "joint")
# The other phase does not exist, or is that of simple_top_k.
ONLY = {
    "first": "joint",
    "simple_top_k, soft gates": "search",
}


def build(config_file: str, changes: dict | None = None):
    config = DynSizeASRTask.get_default_config()
    config |= yaml.safe_load((CONF / config_file).read_text())
    config |= {"token_list": TOKENS, "normalize": "utterance_mvn"}
    for option, conf in (changes or {}).items():
        config[option] = {**config[option], **conf}
    return DynSizeASRTask.build_model(argparse.Namespace(**config)).train()


def supernet(variant: str, phase: str):
    """A supernet in the given phase."""
    method = variant.removesuffix(SEQUENTIAL)
    changes = dict(SUPERNETS[method])
    if variant != method:
        passes = {"joint_pass": "sequential"}
        changes["model_conf"] = {**changes.get("model_conf", {}), **passes}
    model = build(config_file(method).name, changes)
    for scores in model.schedule.selection.selector.parameters():
        scores.data.fill_(0.0)
        for place, layer in enumerate(RANKING):
            scores.data[layer] = 1.0 - 0.01 * place
    if phase == "joint":
        model.schedule.selection.fixed_masks.copy_(
            model.schedule.selection.selector.masks()
        )
    else:
        model.schedule.selection.search_updates.fill_(SEARCH_UPDATES)
    return model


def models() -> dict[tuple[str, str], torch.nn.Module]:
    """(Name, phase) → model ready to train; the full stock model is first."""
    found = {
        (f"{layers} layers alone", ""): build(
            "train_asr_conformer.yaml",
            {"encoder_conf": {"num_blocks": layers // len(KINDS)}},
        )
        for layers in reversed(WIDE)
    }
    for name in VARIANTS:
        for phase in [ONLY[name]] if name in ONLY else PHASES:
            found[name, phase] = supernet(name, phase)
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


def peak_bytes(model, optimizer, data) -> int:
    """Highest of three steps; the first ones of the search are the largest."""
    step(model, optimizer, data)  # makes the optimiser's state
    state = [x for own in optimizer.state.values() for x in own.values()]
    living = [*model.parameters(), *model.buffers(), *state, *data.values()]
    with PeakMemory(living) as memory:
        for _ in range(3):
            step(model, optimizer, data)
    return memory.peak


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
    lines = [
        "| training step | search: time | memory | joint: time | memory | test WER |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in dict.fromkeys(row["name"] for row in rows):
        own = {row["phase"]: row for row in rows if row["name"] == name}
        cells = [name]
        for phase in PHASES:
            row = own.get(phase, own.get("", {}))
            for kind in ("time", "memory"):
                cells.append(f"{row[kind]:.2f}" if row else "–")
        lines.append("| " + " | ".join([*cells, _wer(name)]) + " |")
    return "\n".join(lines) + "\n"


def _wer(name: str) -> str:
    """Medians over the seeds of an4_family.py's rows, smallest size first."""
    method, sizes = name.removesuffix(SEQUENTIAL), WIDE
    if name.endswith(" layers alone"):
        method, sizes = INDIVIDUAL, (int(name.split()[0]),)
    rows = [row for row in read_rows() if row["method"] == method]
    errors = [[r["wer"] for r in rows if r["layers"] == size] for size in sizes]
    if not all(errors):
        return "–"
    return " / ".join(f"{statistics.median(own):.1f}" for own in errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--name", help="of the result, for other machines or settings")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    espnet_dynsize.register()
    found = {name: model.to(args.device) for name, model in models().items()}
    optimizers = {n: torch.optim.Adam(m.parameters()) for n, m in found.items()}
    data = batch(args.device)
    peaks = {n: peak_bytes(m, optimizers[n], data) for n, m in found.items()}
    ratios = time_ratios(found, optimizers, data, args.repeats, args.device)
    base_peak = next(iter(peaks.values()))
    rows = [
        dict(
            name=key[0],
            phase=key[1],
            time=round(ratio, 3),
            memory=round(peaks[key] / base_peak, 3),
        )
        for key, ratio in ratios.items()
    ]
    machine = f"{platform.machine()} CPU, {args.threads} thread(s)"
    if args.device == "cuda":
        machine = torch.cuda.get_device_name()
    result = dict(machine=machine, repeats=args.repeats, rows=rows)
    path = HERE / "results" / "_".join(filter(None, ["joint_step", args.name]))
    path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(rows))
    print(markdown(rows))


if __name__ == "__main__":
    main()
