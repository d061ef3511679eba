"""Time and peak memory of a supernet's training step, next to stock models.

    python benchmarks/joint_step.py [--repeats 15] [--threads 1] [--device cpu]
    LD_PRELOAD=libtcmalloc_minimal.so.4 python benchmarks/joint_step.py --name tcmalloc
    python benchmarks/joint_step.py --config CONFIG --tokens 5000 --seconds 12 \
        --device cuda --amp --name X [--variants V ...]

All models take turns, a step each, on the same batch (8 utterances of 3 s and more). A
ratio is the median over turns of the time divided by the full stock model's in the same
turn. Sizes and methods are those of an4_family.py.
The joint phase keeps the layers that a search has found; in the search, whose cost
depends on k, it is the mean of twelve k from the largest to the smallest. Peak memory
counts parameters, gradients, optimiser state and activations. `--name X` writes
results/joint_step_X.md in place of results/joint_step.md, `--config` takes another
family's training config.
"""

import argparse
import json
import platform
import statistics
from pathlib import Path

import torch
from an4_methods import CONF, KINDS, STOCK, SUPERNETS
from peak_memory import PeakMemory
from torch.utils.benchmark import timer

import espnet_dynsize
from espnet_dynsize.control.selection import Phase
from espnet_dynsize.core.keys import ENCODER_PREFIX
from espnet_dynsize.core.yaml_base import load_config
from espnet_dynsize.train.task import DynSizeASRTask

HERE = Path(__file__).resolve().parent
CONFIG = CONF / "train_asr_dynsize.yaml"
UTTERANCES, LABELS = 8, 20
# Of the full encoder's blocks: models alone
SHARES = (1, 1 / 2, 1 / 6)
# Divisible by 2 and 3, after which sizes that take turns come round
SEARCH_UPDATES = 12
# Best layers first, as a search on AN4 has ranked them
RANKING = [21, 18, 14, 5, 13, 10, 6, 9, 22, 17, 23, 20]
RANKING += [19, 16, 4, 15, 12, 8, 7, 2, 11, 1, 0, 3]
VARIANTS = (
    "ortho_softmax",
    "simple_top_k",
    "first",
    "simple_top_k, no distillation",
    "not alternating",
    "pairs",
    "published joint step",
)
PHASES = ("search", "joint")
# The other phase does not exist, or is that of simple_top_k.
ONLY = {
    "first": "joint",
}


def build(args, changes: dict, **options):
    """The model of a training config.

    Args:
        args: Of the command line.
        changes: Option → its keys and values; None takes a key away.
        **options: Others in place of the config's.
    """
    config = {**DynSizeASRTask.get_default_config(), **load_config(args.config)}
    tokens = ["<blank>", "<unk>", *map(str, range(args.tokens - 3)), "<sos/eos>"]
    config |= {"token_list": tokens, "normalize": "utterance_mvn", **options}
    for option, conf in changes.items():
        merged = {**config[option], **conf}
        config[option] = {k: v for k, v in merged.items() if v is not None}
    return DynSizeASRTask.build_model(argparse.Namespace(**config)).train()


def supernet(args, method: str, phase: str):
    """A supernet in the given phase."""
    model = build(args, SUPERNETS[method])
    selection = model.schedule.selection
    for scores in selection.selector.parameters():
        ranking = RANKING
        if len(scores) != len(RANKING):
            generator = torch.Generator().manual_seed(0)
            ranking = torch.randperm(len(scores), generator=generator).tolist()
        for place, layer in enumerate(ranking):
            scores.data[layer] = 1.0 - 0.01 * place
    if phase == "joint":
        selection.fixed_masks.copy_(selection.selector.masks())
    else:
        selection.search_updates.fill_(SEARCH_UPDATES)
    return model


def stock_model(args, blocks: int):
    """The stock encoder of so many blocks."""
    encoder = load_config(args.config)["encoder"].removeprefix(ENCODER_PREFIX)
    changes = {**STOCK, "encoder_conf": {"num_blocks": blocks}}
    return build(args, changes, model="espnet", encoder=encoder)


def models(args) -> dict[tuple[str, str], torch.nn.Module]:
    """(Name, phase) → model ready to train; the full stock model is first."""
    full = load_config(args.config)["encoder_conf"]["num_blocks"]
    stock = {}
    for share in SHARES:
        blocks = round(share * full)
        stock[f"{blocks * len(KINDS)} layers alone", ""] = stock_model(args, blocks)
    supernets = {
        (name, phase): supernet(args, name, phase)
        for name in args.variants
        for phase in ([ONLY[name]] if name in ONLY else PHASES)
    }
    return {**stock, **supernets}


def batch(args) -> dict:
    generator = torch.Generator().manual_seed(0)
    shortest = int(16000 * args.seconds)
    lengths = shortest + 400 * torch.arange(UTTERANCES)
    labels = round(LABELS * args.seconds / 3)
    shape = (UTTERANCES, labels)
    data = dict(
        speech=torch.randn(UTTERANCES, int(lengths.max()), generator=generator),
        speech_lengths=lengths,
        text=torch.randint(2, args.tokens - 1, shape, generator=generator),
        text_lengths=torch.full((UTTERANCES,), labels),
    )
    return {key: value.to(args.device) for key, value in data.items()}


def step(model, optimizer, data, amp: bool) -> None:
    schedule = getattr(model, "schedule", None)
    if schedule is not None:
        if schedule.phase is Phase.SEARCH:  # goes round in it
            schedule.update.fill_(schedule.now % SEARCH_UPDATES)
        model.begin_update(seed=0)
    # The scale moves with many steps: it is not timed.
    with torch.autocast(data["speech"].device.type, enabled=amp):
        loss = model(**data)[0].sum()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def timed_step(model, optimizer, data, amp) -> float:
    # Not a `Timer`: it calls twice to warm up before each time, which moves k on.
    start = timer()  # waits for the device
    step(model, optimizer, data, amp)
    return timer() - start


def peak_bytes(model, optimizer, data, amp) -> int:
    """Highest of three steps; the first ones of the search are the largest."""
    step(model, optimizer, data, amp)  # makes the optimiser's state
    state = [x for values in optimizer.state.values() for x in values.values()]
    living = [*model.parameters(), *model.buffers(), *state, *data.values()]
    with PeakMemory(living) as memory:
        for _ in range(3):
            step(model, optimizer, data, amp)
    return memory.peak


def time_ratios(trained: dict, optimizers: dict, data, args) -> dict:
    """Name → time relative to the first model: median over turns, mean over k."""
    names = list(trained)
    ratios: dict = {name: [[] for _ in range(SEARCH_UPDATES)] for name in names}
    for turn in range(args.repeats + 1):
        for place in range(SEARCH_UPDATES):
            times = {
                name: timed_step(trained[name], optimizers[name], data, args.amp)
                for name in names
            }
            for name, seconds in times.items() if turn > 0 else ():  # 0 warms up
                ratios[name][place].append(seconds / times[names[0]])
    return {
        name: statistics.mean(map(statistics.median, places))
        for name, places in ratios.items()
    }


def markdown(rows: list[dict]) -> str:
    lines = [
        "| training step | search: time | memory | joint: time | memory |",
        "|---|---:|---:|---:|---:|",
    ]
    for name in dict.fromkeys(row["name"] for row in rows):
        by_phase = {row["phase"]: row for row in rows if row["name"] == name}
        cells = [name]
        for phase in PHASES:
            row = by_phase.get(phase, by_phase.get("", {}))
            for kind in ("time", "memory"):
                cells.append(f"{row[kind]:.2f}" if row else "–")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def step_parser(doc: str) -> argparse.ArgumentParser:
    """The options of every script that measures steps.

    Args:
        doc: Of the script.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--amp", action="store_true", help="mixed precision")
    return parser


def machine_of(args) -> str:
    """What the steps ran on."""
    if args.device == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {args.threads} thread(s)"


def main() -> None:
    parser = step_parser(__doc__)
    parser.add_argument("--name", help="of the result, for other machines or settings")
    parser.add_argument("--config", type=Path, default=CONFIG, help="of the family")
    parser.add_argument("--tokens", type=int, default=30, help="outputs")
    parser.add_argument("--seconds", type=float, default=3.0, help="of an utterance")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    espnet_dynsize.register()
    trained = {name: model.to(args.device) for name, model in models(args).items()}
    optimizers = {n: torch.optim.Adam(m.parameters()) for n, m in trained.items()}
    data = batch(args)
    peaks = {
        name: peak_bytes(model, optimizers[name], data, args.amp)
        for name, model in trained.items()
    }
    ratios = time_ratios(trained, optimizers, data, args)
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
    options = {key: str(value) for key, value in vars(args).items()}
    options["config"] = str(args.config.resolve().relative_to(HERE.parent))
    result = dict(machine=machine_of(args), options=options, rows=rows)
    path = HERE / "results" / "_".join(filter(None, ["joint_step", args.name]))
    path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(rows))
    print(markdown(rows))


if __name__ == "__main__":
    main()
