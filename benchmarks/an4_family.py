"""Supernets against individually trained models of the same sizes, on AN4.

    python benchmarks/an4_family.py --corpus_dir DIR [--methods M ...] [--seeds 0 1]

Every method trains with the same data and the same number of updates. Trainings are
resumable; each finished model is a row of results/an4_family.jsonl, from which
results/an4_family.md and the pictures are built (--tables: only that).
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

from an4_methods import (
    ALONE,
    CONF,
    DECODING,
    FINE_TUNED,
    INDIVIDUAL,
    KINDS,
    LAYERS,
    METHODS,
    MODELS,
    NARROW,
    SUPERNETS,
    WIDE,
    arguments,
    config_file,
)
from an4_tables import write_tables

from espnet_dynsize.corpora import an4
from espnet_dynsize.demo.stages import GREEDY_CTC, Experiment, model_file
from espnet_dynsize.deploy.experiment import load_model
from espnet_dynsize.deploy.extract import extract_changed
from espnet_dynsize.report import measure

HERE = Path(__file__).resolve().parent
ROWS = HERE / "results" / "an4_family.jsonl"
STOCK = CONF / "train_asr_conformer.yaml"


def run(experiment: Experiment, method: str, seed: int) -> None:
    """Train, cut and score all sizes of a method; add its rows."""
    if method == INDIVIDUAL:
        rows = [_individual(experiment, layers, seed) for layers in LAYERS[::-1]]
    elif method == ALONE:
        smaller = _supernet(experiment, "simple_top_k", seed)[:-1]
        rows = [_layers_alone(experiment, row, seed) for row in smaller]
    else:
        rows = _supernet(experiment, method, seed)
    add_rows(rows)


def _supernet(experiment: Experiment, method: str, seed: int) -> list[dict]:
    tag = re.sub(r"[^\w.]+", "_", method) + f"_seed{seed}"
    commit = _commit(experiment.exp / tag)
    options = ["--seed", str(seed), *arguments(SUPERNETS[method])]
    if method == FINE_TUNED:
        row = _individual(experiment, LAYERS[-1], seed)
        stock = experiment.exp / row["exp"]
        options += ["--init_param", str(stock / model_file(stock))]
    supernet = experiment.train(config_file(method), tag, options)
    folders = extract_changed(supernet, model_file(supernet))
    layers = NARROW if method in MODELS else WIDE
    return [
        _row(experiment, folder, method, layers, seed, commit)
        for layers, folder in zip(layers, folders.values())
    ]


def _individual(experiment: Experiment, layers: int, seed: int) -> dict:
    blocks = layers // len(KINDS)
    tag = f"conformer{blocks}_seed{seed}"
    commit = _commit(experiment.exp / tag)
    options = ["--seed", str(seed), "--encoder_conf", f"num_blocks={blocks}"]
    folder = experiment.train(STOCK, tag, options)
    return _row(experiment, folder, INDIVIDUAL, layers, seed, commit)


def _layers_alone(experiment: Experiment, row: dict, seed: int) -> dict:
    tag = f"alone_{row['layers']}_seed{seed}"
    commit = _commit(experiment.exp / tag)
    options = ["--seed", str(seed), "--encoder", "dynsize_conformer"]
    options += arguments({"encoder_conf": {"keep_layers": row["kept"]}})
    folder = experiment.train(STOCK, tag, options)
    return _row(experiment, folder, ALONE, row["layers"], seed, commit)


def _row(experiment, folder, method, layers, seed, commit) -> dict:
    """A row; `layers` are those of the Conformer trained alone to compare with."""
    checkpoint = model_file(folder)
    options = GREEDY_CTC
    if method in DECODING:
        options = ("--config", str(CONF / f"decode_{DECODING[method]}.yaml"))
    scores = {
        prefix: experiment.decode(folder, checkpoint, name, options)
        for prefix, name in (("", "test"), ("dev_", "valid"))
    }
    model, config = load_model(folder, checkpoint)
    run = measure.encoder_run(model, config)
    return dict(
        method=method,
        layers=layers,
        seed=seed,
        **{f"{p}wer": round(100 * s.wer, 2) for p, s in scores.items()},
        **{f"{p}cer": round(100 * s.cer, 2) for p, s in scores.items()},
        parameters=measure.count_parameters(model),
        mflops=round(measure.flops_per_second(run) / 1e6, 1),
        epochs=config["max_epoch"],
        kept=config["encoder_conf"].get("keep_layers"),
        exp=str(folder.name),
        commit=commit,
        machine=f"{platform.machine()} CPU, {experiment.threads} thread(s) a run",
    )


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
    """Write rows, in place of older ones of the same method, size and seed."""

    def key(row: dict) -> tuple:
        return METHODS.index(row["method"]), row["layers"], row["seed"]

    rows = {key(row): row for row in [*read_rows(), *new]}
    rows = [rows[k] for k in sorted(rows)]
    ROWS.parent.mkdir(exist_ok=True)
    ROWS.write_text("".join(json.dumps(row) + "\n" for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus_dir", type=Path, help="folder of AN4")
    parser.add_argument("--exp", type=Path, default=HERE / "exp" / "an4_family")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at once")
    parser.add_argument("--tables", action="store_true", help="only write the tables")
    args = parser.parse_args()
    if not args.tables:
        _run_all(args)
    write_tables(read_rows(), ROWS)
    print(ROWS.with_suffix(".md").read_text())


def _run_all(args) -> None:
    logging.disable(logging.WARNING)
    config = CONF / "train_asr_dynsize.yaml"
    threads = max((os.cpu_count() or 1) // args.jobs, 1)
    data = an4.prepare(args.corpus_dir, args.exp / "data")
    experiment = Experiment(args.exp, data, threads=threads)
    experiment.make_token_list()
    experiment.collect_stats(config)
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = [
            pool.submit(run, experiment, method, seed)
            for seed in args.seeds
            for method in args.methods
        ]
        for job in jobs:
            job.result()


if __name__ == "__main__":
    main()
