"""Time of a training step of the supernet next to stock models, in one process.

    python benchmarks/step_time.py [--repeats 15] [--threads 1]

The models take turns on the same batch (8 utterances of about 3 s); the ratio is the
median over turns of the time divided by the full stock model's in the same turn.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
import yaml

import espnet_dynsize
from espnet_dynsize.task import DynSizeASRTask

HERE = Path(__file__).resolve().parent
CONF = HERE.parent / "egs2" / "an4_dynsize" / "asr1" / "conf"
RESULT = HERE / "results" / "step_time.json"
TOKENS = ["<blank>", "<unk>", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "<space>", "<sos/eos>"]
LAYERS_PER_BLOCK = 4


def build(config_file: str, **encoder_changes):
    config = DynSizeASRTask.get_default_config()
    config |= yaml.safe_load((CONF / config_file).read_text())
    config |= {"token_list": TOKENS, "normalize": "utterance_mvn"}
    config["encoder_conf"] = {**config["encoder_conf"], **encoder_changes}
    return DynSizeASRTask.build_model(argparse.Namespace(**config)).train()


def variants() -> dict:
    """Name → model ready to train; the full stock model is first."""
    conf = yaml.safe_load((CONF / "train_asr_dynsize.yaml").read_text())
    sizes = conf["encoder_conf"]["sizes"]
    models = {
        f"individual, {size} layers": build(
            "train_asr_conformer.yaml", num_blocks=size // LAYERS_PER_BLOCK
        )
        for size in reversed(sizes)
    }
    search, joint = build("train_asr_dynsize.yaml"), build("train_asr_dynsize.yaml")
    search.schedule.plan(10**6)
    joint.schedule.fixed_masks.copy_(joint.schedule.selector.masks())
    return {**models, "supernet, search step": search, "supernet, joint step": joint}


def batch() -> dict:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.arange(48000, 48000 + 8 * 400, 400)
    return dict(
        speech=torch.randn(8, int(lengths.max()), generator=generator),
        speech_lengths=lengths,
        text=torch.randint(2, 28, (8, 20), generator=generator),
        text_lengths=torch.full((8,), 20),
    )


def step(model, optimizer, data) -> float:
    start = time.perf_counter()
    if getattr(model, "schedule", None) is not None:
        model.schedule.begin_update(seed=0)
    model(**data)[0].sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    espnet_dynsize.register()
    models = variants()
    optimizers = {n: torch.optim.Adam(m.parameters()) for n, m in models.items()}
    data = batch()
    times = {name: [] for name in models}
    for turn in range(args.repeats + 2):
        for name, model in models.items():
            seconds = step(model, optimizers[name], data)
            if turn >= 2:  # the first turns warm up
                times[name].append(seconds)
    base = next(iter(times.values()))
    ratios = {
        name: round(statistics.median(t / b for t, b in zip(own, base)), 2)
        for name, own in times.items()
    }
    machine = f"{platform.machine()} CPU, {args.threads} thread(s)"
    RESULT.write_text(
        json.dumps(dict(machine=machine, repeats=args.repeats, ratios=ratios), indent=1)
    )
    for name, ratio in ratios.items():
        print(f"| {name} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
