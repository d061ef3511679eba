"""Rows of models that are trained and scored on folds of AN4, for every bench."""

import argparse
import hashlib
import json
import logging
import os
import platform
import re
import subprocess
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import Any

import espnet2
import torch
from blanks import write_bias
from folds import add_folds, prepared

from espnet_dynsize.core.process import end_on_signals
from espnet_dynsize.core.yaml_base import load_config
from espnet_dynsize.demo.stages import GREEDY_CTC, Experiment, model_file
from espnet_dynsize.deploy.experiment import load_model
from espnet_dynsize.report import measure
from espnet_dynsize.report.scores import read_errors

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
WORDS = RESULTS / "an4_words.json"
# What stands before its error rates' names → data directory
SETS = {"": "test", "dev_": "valid"}
_WRITING = threading.Lock()
# Of folders; two methods can begin with the same network.
_TRAINING: dict[Path, threading.Lock] = defaultdict(threading.Lock)


def train(
    experiment: Experiment, config: Path, tag: str, options: list[str]
) -> tuple[Path, dict[str, str]]:
    """The folder of a training, and the commit, versions and machine it began with.

    Raises:
        ValueError: what is there was trained with another config or other options.
    """
    plain = [option for option in options if "/" not in option]  # no folders
    told = json.dumps([load_config(config), plain], sort_keys=True, default=str)
    digest = hashlib.sha256(told.encode()).hexdigest()[:16]
    path = experiment.exp / tag / "origin.json"
    if not path.exists():
        command = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=True)
        machine = f"{platform.machine()} CPU, {experiment.threads} thread(s) a run"
        if experiment.ngpu > 0:
            machine = torch.cuda.get_device_name()
        origin = dict(
            commit=commit.stdout.strip(),
            versions=f"espnet {espnet2.__version__}, torch {torch.__version__}",
            machine=machine,
            told=digest,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(origin))
    origin = json.loads(path.read_text())
    # Of the first rows it is not known.
    if origin.pop("told", digest) != digest:
        raise ValueError(f"{path.parent} was trained with other options: rename it.")
    with _TRAINING[path.parent]:
        return experiment.train(config, tag, options), origin


def score(
    experiment: Experiment,
    folder: Path,
    origin: dict[str, str],
    options: Sequence[str] = GREEDY_CTC,
) -> dict:
    """What a model's row holds, however it was made.

    Args:
        experiment: Its data.
        folder: Of the trained model.
        origin: See `train`.
        options: Of decoding.
    """
    checkpoint = model_file(folder)
    scores = {
        prefix: experiment.decode(folder, checkpoint, name, options)
        for prefix, name in SETS.items()
    }
    errors, words = {}, {}
    for prefix, name in SETS.items():
        decoded = folder / f"decode_{Path(checkpoint).stem}" / name
        for kind in ("wer", "cer"):
            counts = read_errors(decoded / f"score_{kind}")
            errors[prefix + kind] = [counts[key].errors for key in sorted(counts)]
            words[prefix + kind] = [counts[key].words for key in sorted(counts)]
        # AN4's utterances are SPEAKER-PROMPT-CHANNEL
        words[f"{prefix}speakers"] = [key.partition("-")[0] for key in sorted(counts)]
    model, config = load_model(folder, checkpoint)
    run = measure.encoder_run(model, config)
    return dict(
        **{f"{p}wer": round(100 * s.wer, 2) for p, s in scores.items()},
        **{f"{p}cer": round(100 * s.cer, 2) for p, s in scores.items()},
        parameters=measure.count_parameters(model),
        weights=measure.kept_weights(model),
        mflops=round(measure.flops_per_second(run) / 1e6, 1),
        epochs=config["max_epoch"],
        kept=config["encoder_conf"].get("keep_layers"),
        exp=str(folder.name),
        **origin,
        errors=errors,
        words=words,
    )


def read_rows(path: Path) -> list[dict]:
    """The rows of a file; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_words() -> dict[str, dict[str, list[int]]]:
    """Fold → kind of error rate → words (characters) of every utterance.

    And `speakers`, and `dev_speakers`, → the speaker of every utterance.
    """
    return json.loads(WORDS.read_text()) if WORDS.exists() else {}


def add_rows(
    path: Path, new: list[dict], fold: str, key: Callable[[dict], tuple]
) -> None:
    """Write rows of a fold, in place of older ones.

    Args:
        path: The file.
        new: The rows.
        fold: Is written into each.
        key: What two rows of the same model have in common; rows are sorted by it.
    """
    new = [{**row, "fold": fold} for row in new]
    with _WRITING:
        # The references are the same for every model of a fold: written once.
        words = read_words()
        for row in new:
            own = row.pop("words")
            if words.setdefault(fold, own) != own:
                raise ValueError(f"{row['exp']} was scored with other references.")
        rows = {key(row): row for row in [*read_rows(path), *new]}
        lines = [json.dumps(rows[k]) + "\n" for k in sorted(rows)]
        path.parent.mkdir(exist_ok=True)
        WORDS.write_text(json.dumps(words))
        path.write_text("".join(lines))


def parser(doc: str, methods: Sequence[str]) -> argparse.ArgumentParser:
    """The options that all benches have.

    Args:
        doc: Of the bench.
        methods: What can be run.
    """
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("--corpus_dir", type=Path, help="folder of AN4")
    made.add_argument("--exp", type=Path, default=HERE / "exp" / "an4")
    made.add_argument("--seeds", type=int, nargs="+", default=[0])
    add_folds(made, ["0", "1", "2"])
    made.add_argument("--methods", nargs="+", choices=methods, default=methods)
    made.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at once")
    made.add_argument("--ngpu", type=int, default=0, help="GPUs of a training")
    made.add_argument("--tables", action="store_true", help="only write the tables")
    return made


def run_all(
    args: argparse.Namespace,
    run: Callable[[Experiment, str, Any, int], None],
    parts: Callable[[str], Sequence] = lambda method: [method],
) -> None:
    """Call `run(experiment, fold, part, seed)` for all that is asked for.

    Args:
        args: See `parser`.
        run: Adds the rows.
        parts: Of a method: what trains in a run of its own. The method itself by
            default. The first ones of all methods come first.
    """
    logging.disable(logging.WARNING)
    # Two benches at once, of one job each, must be able to say so: threads of OpenMP
    # that wait for a core make each step ten times as long.
    threads = int(os.environ.get("OMP_NUM_THREADS", 0))
    threads = threads or max((os.cpu_count() or 1) // args.jobs, 1)
    experiments = {
        fold: prepared(args.corpus_dir, args.exp, fold, threads, args.ngpu)
        for fold in args.folds
    }
    ranks = zip_longest(*map(parts, args.methods))
    ordered = [part for rank in ranks for part in rank if part is not None]
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = [
            pool.submit(run, experiment, fold, part, seed)
            for seed in args.seeds
            for part in ordered
            for fold, experiment in experiments.items()
        ]
        for job in jobs:
            job.result()


def begun(experiment: Experiment, seed: int) -> list[str]:
    """Options of a model that is trained alone: it begins as a family does."""
    return ["--seed", str(seed), "--init_param", str(write_bias(experiment))]


def plain(method: str) -> str:
    """A method's name as a part of a folder's."""
    return re.sub(r"[^\w.]+", "_", method)


def main(
    doc: str,
    methods: Sequence[str],
    run: Callable[[Experiment, str, Any, int], None],
    rows: Path,
    write_tables: Callable[[list[dict], dict, Path], None],
    **options,
) -> None:
    """Run what the command line asks for, then write and print the tables.

    Args:
        doc: Of the bench.
        methods: What can be run.
        run: See `run_all`.
        rows: The file of the rows.
        write_tables: Called with the rows, the words (`read_words`) and that file.
        **options: Of `run_all`.
    """
    args = parser(doc, methods).parse_args()
    end_on_signals()
    if not args.tables:
        run_all(args, run, **options)
    write_tables(read_rows(rows), read_words(), rows)
    print(rows.with_suffix(".md").read_text())
