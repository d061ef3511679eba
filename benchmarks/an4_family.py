"""Supernets against individually trained models of the same sizes, on AN4.

    python benchmarks/an4_family.py --corpus_dir DIR [--methods M ...] [--seeds 0 1]
        [--folds 0 1 2 | official]

Every method trains with the same data and the same number of updates. Trainings are
resumable; each finished model is a row of results/an4_family.jsonl, from which
results/an4_family.md and the pictures are built (--tables: only that). A fold tests on
a fifth of the speakers (`corpora.an4.read_folds`); the rows of folds have the errors in
every utterance, whose words are in results/an4_words.json.
"""

import argparse
import hashlib
import json
import logging
import os
import platform
import re
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import espnet2
import torch
import yaml
from an4_methods import (
    ALONE,
    CONF,
    CTC_MODEL,
    DECODING,
    FINE_TUNED,
    INDIVIDUAL,
    JOINT_BIAS,
    KINDS,
    METHODS,
    MODELS,
    NARROW,
    OWN_KIND,
    RUNNABLE,
    STOCK,
    SUPERNETS,
    TRANSDUCERS,
    WIDE,
    arguments,
    config_file,
)
from an4_tables import OFFICIAL, write_tables
from blanks import CTC, JOINT, write_bias
from folds import prepared

from espnet_dynsize.core.files import whole
from espnet_dynsize.core.keys import ENCODER_PREFIX
from espnet_dynsize.core.process import end_on_signals
from espnet_dynsize.core.yaml_base import load_config
from espnet_dynsize.corpora import an4
from espnet_dynsize.demo.stages import GREEDY_CTC, Experiment, model_file
from espnet_dynsize.deploy.experiment import load_model
from espnet_dynsize.deploy.extract import extract_changed
from espnet_dynsize.report import measure
from espnet_dynsize.report.scores import read_errors

HERE = Path(__file__).resolve().parent
ROWS = HERE / "results" / "an4_family.jsonl"
WORDS = HERE / "results" / "an4_words.json"
# What stands before its error rates' names → data directory
SETS = {"": "test", "dev_": "valid"}
_WRITING = threading.Lock()
CONFORMER = CONF / "train_asr_conformer.yaml"


def run(experiment: Experiment, fold: str, method: str, seed: int) -> None:
    """Train, cut and score all sizes of a method in a fold; add its rows."""
    if method == INDIVIDUAL:
        rows = [_individual(experiment, layers, seed) for layers in WIDE[::-1]]
    elif method in OWN_KIND.values():
        sizes = NARROW[::-2]
        rows = [_own_kind(experiment, method, layers, seed) for layers in sizes]
    elif method in TRANSDUCERS:
        rows = [_own_kind(experiment, method, WIDE[-1], seed)]
    elif method == ALONE:
        smaller = _supernet(experiment, "simple_top_k", seed)[:-1]
        rows = [_layers_alone(experiment, row, seed) for row in smaller]
    else:
        rows = _supernet(experiment, method, seed)
    add_rows([{**row, "fold": fold} for row in rows], fold)


def _supernet(experiment: Experiment, method: str, seed: int) -> list[dict]:
    tag = f"{_plain(method)}_seed{seed}"
    options = ["--seed", str(seed), *arguments(SUPERNETS[method])]
    if method == FINE_TUNED:
        row = _individual(experiment, WIDE[-1], seed)
        stock = experiment.exp / row["exp"]
        options += ["--init_param", str(stock / model_file(stock))]
    supernet, origin = _train(experiment, config_file(method), tag, options)
    folders = extract_changed(supernet, model_file(supernet))
    layers = NARROW if method in MODELS else WIDE
    return [
        _row(experiment, folder, method, layers, seed, origin)
        for layers, folder in zip(layers, folders.values())
    ]


def _individual(experiment: Experiment, layers: int, seed: int) -> dict:
    blocks = layers // len(KINDS)
    tag = f"conformer{blocks}_seed{seed}"
    options = [*_begun(experiment, seed), "--encoder_conf", f"num_blocks={blocks}"]
    folder, origin = _train(experiment, CONFORMER, tag, options)
    return _row(experiment, folder, INDIVIDUAL, layers, seed, origin)


def _own_kind(experiment: Experiment, method: str, layers: int, seed: int) -> dict:
    """Another model than a CTC Conformer, trained alone."""
    blocks, config = layers // len(KINDS), config_file(method)
    tag = f"{_plain(method)}{blocks}_seed{seed}"
    options = [*_begun(experiment, seed), "--encoder_conf", f"num_blocks={blocks}"]
    options += _options(experiment, method, seed)
    stock = _stock_config(experiment, config)
    folder, origin = _train(experiment, stock, tag, options)
    return _row(experiment, folder, method, layers, seed, origin)


def _stock_config(experiment: Experiment, config: Path) -> Path:
    """What train_asr_conformer.yaml is to the family's config, for another family."""
    encoder = load_config(config)["encoder"].removeprefix(ENCODER_PREFIX)
    stock = dict(base=str(config), encoder=encoder, model="espnet", **STOCK)
    path = experiment.exp / f"stock_{config.name}"
    with whole(path) as partial:  # several trainings at once may want it
        partial.write_text(yaml.safe_dump(stock))
    return path


def _options(experiment: Experiment, method: str, seed: int) -> list[str]:
    """Those of `TRANSDUCERS`, with the files that they want."""
    options = []
    for option in TRANSDUCERS.get(method, ()):
        if option == JOINT_BIAS:
            bias = write_bias(experiment, names=(CTC, JOINT))
            options += ["--init_param", str(bias)]
        elif option == CTC_MODEL:
            row = _individual(experiment, WIDE[-1], seed)
            stock = experiment.exp / row["exp"]
            checkpoint = stock / model_file(stock)
            parts = [f"{checkpoint}:{part}:{part}" for part in ("encoder", "ctc")]
            options += ["--init_param", *parts]
        else:
            options.append(option)
    return options


def _plain(method: str) -> str:
    return re.sub(r"[^\w.]+", "_", method)


def _layers_alone(experiment: Experiment, row: dict, seed: int) -> dict:
    tag = f"alone_{row['layers']}_seed{seed}"
    options = [*_begun(experiment, seed), "--encoder", "dynsize_conformer"]
    options += arguments({"encoder_conf": {"keep_layers": row["kept"]}})
    folder, origin = _train(experiment, CONFORMER, tag, options)
    return _row(experiment, folder, ALONE, row["layers"], seed, origin)


def _begun(experiment: Experiment, seed: int) -> list[str]:
    """Options of a model that is trained alone: it begins as a family does."""
    return ["--seed", str(seed), "--init_param", str(write_bias(experiment))]


def _row(experiment, folder, method, layers, seed, origin) -> dict:
    """A row; `layers` are those of the Conformer trained alone to compare with."""
    checkpoint = model_file(folder)
    options = GREEDY_CTC
    if method in DECODING:
        options = ("--config", str(CONF / f"decode_{DECODING[method]}.yaml"))
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
        **origin,
        errors=errors,
        words=words,
    )


def _train(
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
    return experiment.train(config, tag, options), origin


def read_rows() -> list[dict]:
    if not ROWS.exists():
        return []
    return [json.loads(line) for line in ROWS.read_text().splitlines()]


def read_words() -> dict[str, dict[str, list[int]]]:
    """Fold → kind of error rate → words (characters) of every utterance.

    And `speakers`, and `dev_speakers`, → the speaker of every utterance.
    """
    return json.loads(WORDS.read_text()) if WORDS.exists() else {}


def add_rows(new: list[dict], fold: str) -> None:
    """Write rows, in place of older ones of the same method, size, fold and seed."""

    def key(row: dict) -> tuple:
        return METHODS.index(row["method"]), row["layers"], row["fold"], row["seed"]

    with _WRITING:
        # The references are the same for every model of a fold: written once.
        words = read_words()
        for row in new:
            own = row.pop("words")
            if words.setdefault(fold, own) != own:
                raise ValueError(f"{row['exp']} was scored with other references.")
        rows = {key(row): row for row in [*read_rows(), *new]}
        lines = [json.dumps(rows[k]) + "\n" for k in sorted(rows)]
        ROWS.parent.mkdir(exist_ok=True)
        WORDS.write_text(json.dumps(words))
        ROWS.write_text("".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus_dir", type=Path, help="folder of AN4")
    parser.add_argument("--exp", type=Path, default=HERE / "exp" / "an4_family")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    folds = [OFFICIAL, *map(str, range(an4.FOLDS))]
    parser.add_argument("--folds", nargs="+", choices=folds, default=["0", "1", "2"])
    parser.add_argument("--methods", nargs="+", choices=RUNNABLE, default=RUNNABLE)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at once")
    parser.add_argument("--ngpu", type=int, default=0, help="GPUs of a training")
    parser.add_argument("--tables", action="store_true", help="only write the tables")
    args = parser.parse_args()
    end_on_signals()
    if not args.tables:
        _run_all(args)
    write_tables(read_rows(), read_words(), ROWS)
    print(ROWS.with_suffix(".md").read_text())


def _run_all(args) -> None:
    logging.disable(logging.WARNING)
    threads = max((os.cpu_count() or 1) // args.jobs, 1)
    experiments = {fold: _experiment(args, fold, threads) for fold in args.folds}
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = [
            pool.submit(run, experiment, fold, method, seed)
            for seed in args.seeds
            for method in args.methods
            for fold, experiment in experiments.items()
        ]
        for job in jobs:
            job.result()


def _experiment(args, fold: str, threads: int) -> Experiment:
    exp = args.exp if fold == OFFICIAL else args.exp / f"fold{fold}"
    number = None if fold == OFFICIAL else int(fold)
    return prepared(args.corpus_dir, exp, number, threads, args.ngpu)


if __name__ == "__main__":
    main()
