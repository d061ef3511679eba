"""One supernet against individually trained models of the same sizes, on AN4.

    python benchmarks/an4_family.py --corpus_dir DIR [--seeds 0 1] [--jobs 2]

Trainings are resumable; each finished model is a row of results/an4_family.jsonl, from
which results/an4_family.md is built.
"""

import argparse
import json
import logging
import os
import platform
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import yaml

from espnet_dynsize.demo import an4
from espnet_dynsize.demo.run import extract_missing
from espnet_dynsize.demo.stages import Experiment, model_file
from espnet_dynsize.deploy.experiment import load_model
from espnet_dynsize.report import measure

HERE = Path(__file__).resolve().parent
CONF = HERE.parent / "egs2" / "an4_dynsize" / "asr1" / "conf"
ROWS = HERE / "results" / "an4_family.jsonl"
LAYERS_PER_BLOCK = 4
_MEANS = ("wer", "cer", "parameters", "mflops", "rtf", "training_minutes")
# Method → name of its folder, and arguments besides the config
SUPERNETS = {
    "supernet": ("dynsize", []),
    "supernet, soft gates": (
        "dynsize_soft",
        ["--encoder_conf", "selector_conf.straight_through=false"],
    ),
}
_LABELS = {"individual": "three models, trained alone", "supernet": "one supernet"}
_TIME = re.compile(r"epoch results: \[train\].*?[, ]time=([^,]*(?:, )?[^,=]*seconds)")


def training_seconds(log: Path) -> float:
    """Time in the training loop, summed over epochs (interruptions do not count)."""
    units = {"hour": 3600, "minute": 60, "second": 1}
    total = 0.0
    for match in _TIME.findall(log.read_text(errors="replace")):
        for number, unit in re.findall(r"([\d.]+) (hour|minute|second)", match):
            total += float(number) * units[unit]
    return total


def run_supernet(experiment: Experiment, seed: int, method: str) -> list[dict]:
    tag, arguments = SUPERNETS[method]
    tag = f"{tag}_seed{seed}"
    commit = _commit(experiment.exp / tag)
    supernet = experiment.train(
        CONF / "train_asr_dynsize.yaml", tag, ["--seed", str(seed), *arguments]
    )
    seconds = training_seconds(supernet / "train.log")
    folders = extract_missing(supernet, model_file(supernet))
    return [
        _row(experiment, folder, method, seed, seconds, commit) for folder in folders
    ]


def run_individual(experiment: Experiment, size: int, seed: int) -> list[dict]:
    blocks = size // LAYERS_PER_BLOCK
    tag = f"conformer{blocks}_seed{seed}"
    commit = _commit(experiment.exp / tag)
    arguments = ["--seed", str(seed), "--encoder_conf", f"num_blocks={blocks}"]
    folder = experiment.train(CONF / "train_asr_conformer.yaml", tag, arguments)
    seconds = training_seconds(folder / "train.log")
    return [_row(experiment, folder, "individual", seed, seconds, commit, size)]


def _row(experiment, folder, method, seed, seconds, commit, size=None) -> dict:
    checkpoint = model_file(folder)
    score = experiment.decode(folder, checkpoint)
    model, config = load_model(folder, checkpoint)
    return dict(
        method=method,
        size=size or len(config["encoder_conf"]["keep_layers"]),
        seed=seed,
        wer=round(100 * score.wer, 2),
        cer=round(100 * score.cer, 2),
        parameters=measure.count_parameters(model),
        mflops=round(
            measure.flops_per_second(measure.recogniser(model, config)) / 1e6, 1
        ),
        training_minutes=round(seconds / 60, 1),
        epochs=config["max_epoch"],
        kept=config["encoder_conf"].get("keep_layers"),
        exp=str(folder.name),
        commit=commit,
        machine=f"{platform.machine()} CPU, {experiment.threads} thread(s) a run",
    )


def measure_rtf(rows: list[dict], exp: Path) -> None:
    """Real-time factors of all models, taking turns, when nothing else runs."""
    runs = []
    for row in rows:
        model, config = load_model(exp / row["exp"], model_file(exp / row["exp"]))
        runs.append(measure.recogniser(model, config))
    for row, rtf in zip(rows, measure.real_time_factors(runs)):
        row["rtf"] = round(rtf, 5)


def _commit(folder: Path) -> str:
    """The commit with which the training in `folder` began."""
    path = folder / "commit"
    if not path.exists():
        command = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=True)
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(commit.stdout)
    return path.read_text().strip()


def read_rows() -> list[dict]:
    if not ROWS.exists():
        return []
    return [json.loads(line) for line in ROWS.read_text().splitlines()]


def add_rows(new: list[dict]) -> None:
    """Write rows, in place of older ones of the same model."""
    names = {row["exp"] for row in new}
    rows = [row for row in read_rows() if row["exp"] not in names] + new
    rows.sort(key=lambda row: (row["size"], row["method"], row["seed"]))
    ROWS.parent.mkdir(exist_ok=True)
    ROWS.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ROWS.with_suffix(".md").write_text(markdown(rows))
    plot(rows, ROWS.with_suffix(".png"))


def group_rows(rows: list[dict]) -> dict[tuple, dict]:
    """(size, method) → means over seeds, and the number of them."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault((row["size"], row["method"]), []).append(row)
    return {
        key: {name: sum(row[name] for row in group) / len(group) for name in _MEANS}
        | {"seeds": len(group)}
        for key, group in groups.items()
    }


def plot(rows: list[dict], path: Path) -> None:
    """WER against parameters, a line a method."""
    figure, axes = plt.subplots(figsize=(6, 4))
    groups = group_rows(rows)
    for method, style in (("individual", "s--"), ("supernet", "o-")):
        own = {size: g for (size, m), g in groups.items() if m == method}
        x = [g["parameters"] / 1e3 for g in own.values()]
        axes.plot(x, [g["wer"] for g in own.values()], style, label=_LABELS[method])
        for (size, g), thousand in zip(own.items(), x):
            offset = 6 if method == "individual" else -12
            axes.annotate(
                f"{size} layers",
                (thousand, g["wer"]),
                xytext=(4, offset),
                textcoords="offset points",
                fontsize=8,
            )
    axes.set(xlabel="thousand parameters", ylabel="WER % on AN4 test")
    axes.set_ylim(bottom=0)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def markdown(rows: list[dict]) -> str:
    """Mean over seeds; one line a size and method."""
    lines = [
        "| layers | method | seeds | parameters | MFLOPs / s audio | RTF | WER % "
        "| CER % | training, min |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for (size, method), mean in group_rows(rows).items():
        shared = " (all sizes)" if method in SUPERNETS else ""
        lines.append(
            f"| {size} | {method} | {mean['seeds']} | {mean['parameters']:,.0f} "
            f"| {mean['mflops']:.1f} | {mean['rtf']:.4f} "
            f"| {mean['wer']:.1f} | {mean['cer']:.1f} "
            f"| {mean['training_minutes']:.0f}{shared} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus_dir", type=Path, required=True, help="folder of AN4")
    parser.add_argument("--exp", type=Path, default=HERE / "exp" / "an4_family")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at once")
    parser.add_argument("--only", choices=("supernet", "individual"))
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    config = CONF / "train_asr_dynsize.yaml"
    threads = max((os.cpu_count() or 1) // args.jobs, 1)
    data = an4.prepare(args.corpus_dir, args.exp / "data")
    experiment = Experiment(args.exp, data, threads=threads)
    experiment.make_token_list()
    experiment.collect_stats(config)
    sizes = _sizes(config)
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = []
        for seed in args.seeds:
            for method in SUPERNETS if args.only != "individual" else ():
                jobs.append(pool.submit(run_supernet, experiment, seed, method))
            if args.only != "supernet":
                jobs += [
                    pool.submit(run_individual, experiment, size, seed)
                    for size in reversed(sizes)
                ]
        rows = [row for job in jobs for row in job.result()]
    measure_rtf(rows, args.exp)
    add_rows(rows)
    print(ROWS.with_suffix(".md").read_text())


def _sizes(config: Path) -> list[int]:
    return yaml.safe_load(config.read_text())["encoder_conf"]["sizes"]


if __name__ == "__main__":
    main()
