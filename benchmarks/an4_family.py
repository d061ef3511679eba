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
from statistics import mean, median

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from espnet_dynsize.corpora import an4
from espnet_dynsize.demo.stages import GREEDY_CTC, Experiment, model_file
from espnet_dynsize.deploy.experiment import load_model
from espnet_dynsize.deploy.extract import extract_changed
from espnet_dynsize.report import measure

HERE = Path(__file__).resolve().parent
CONF = HERE.parent / "egs2" / "an4_dynsize" / "asr1" / "conf"
ROWS = HERE / "results" / "an4_family.jsonl"
KINDS = ("FFN 1", "attention", "convolution", "FFN 2")
INDIVIDUAL = "individual"
# The layers that simple_top_k has found with the same seed, trained from scratch
ALONE = "layers of simple_top_k, alone"
# Layers of the Conformers trained alone: 1, 2, 3, 4 and 6 blocks.
LAYERS = (4, 8, 12, 16, 24)
WIDE, NARROW = (4, 12, 24), (8, 16, 24)
# Parts of the encoder's parameters, and of its FLOPs, that 1, 3 and 6 blocks have
PARAMETERS, FLOPS = (0.2586, 0.5552, 1), (0.3835, 0.6301, 1)


def _selector(name: str, **conf) -> list[str]:
    return _encoder(selector=name, selector_conf=conf)


def _encoder(**conf) -> list[str]:
    return [a for k, v in conf.items() for a in ("--encoder_conf", f"{k}={_yaml(v)}")]


def _model(**conf) -> list[str]:
    return [a for k, v in conf.items() for a in ("--model_conf", f"{k}={_yaml(v)}")]


def _yaml(value) -> str:
    return json.dumps(value)


# Method → what differs from its config (see CONFIGS)
SELECTORS = {
    "simple_top_k": [],
    "simple_top_k, soft gates": _encoder(
        selector_conf={"search_fraction": 0.2, "straight_through": False}
    ),
    # Scores can move six times their initial value in the search, as in the published
    # runs; with 10 and the weights' learning rate they would hardly move in this one.
    "iterative_zero_out": _selector(
        "iterative_zero_out", search_fraction=0.4, initial_score=3.0, score_lr=6.0
    ),
    "ortho_softmax": _selector("ortho_softmax", search_fraction=0.4),
    "uniform": _selector("uniform"),
    "first": _selector("first"),
    "random": _selector("random"),
    "aux-loss": [],
}
_LONG = _encoder(selector_conf={"search_fraction": 0.4})
_LAYER_NORM = _encoder(conv_norm="layer_norm")
_PUBLISHED = [
    *_LAYER_NORM,
    *_model(alternate=False, subnet_cost=1.0, distill_weight=0.0),
]
TRAINING = {
    "published joint step": [*_PUBLISHED, *_LONG],
    "first, published joint step": [*_PUBLISHED, *SELECTORS["first"]],
    "no distillation": _model(distill_weight=0.0),
    "subnet_weight 1": _model(subnet_weight=1.0),
    "whole batches": _model(subnet_cost=1.0),
    "whole batches, not alternating": _model(subnet_cost=1.0, alternate=False),
    "search_fraction 0.4": _LONG,
    "warmup_fraction 0.2": _encoder(
        selector_conf={"warmup_fraction": 0.2, "search_fraction": 0.2}
    ),
    "layer_norm": _LAYER_NORM,
    "norm_per_size": _encoder(norm_per_size=True),
    "one output layer": _model(output_per_size=False),
}
COMPONENTS = {
    "ortho_softmax, components": [
        *SELECTORS["ortho_softmax"],
        *_encoder(granularity="component"),
    ],
}
# Families of layer counts; those above have budgets of parameters.
COUNTS = {
    "simple_top_k, layer counts": [],
    "layer_norm, layer counts": _LAYER_NORM,
    "published joint step, layer counts": TRAINING["published joint step"],
}
FEWER = {
    "simple_top_k, 8 / 16 / 24": [],
    "layer_norm, 8 / 16 / 24": _LAYER_NORM,
    "published joint step, 8 / 16 / 24": TRAINING["published joint step"],
    "first, published joint step, 8 / 16 / 24": TRAINING["first, published joint step"],
}
# Other models, next to the Conformers all the same: their own config's name
MODELS = {
    "E-Branchformer": "e_branchformer",
    "CTC + attention": "hybrid",
    "transducer": "transducer",
}
FLOPS_FAMILY = "simple_top_k, as many FLOPs"
FINE_TUNED = "fine-tuned from the individual full size"
MEASURES = {
    "wer": "test WER",
    "cer": "test CER",
    "dev_wer": "dev WER",
    "dev_cer": "dev CER",
}
SUPERNETS = {
    **{
        method: [*_encoder(sizes=None, budgets={"params": PARAMETERS}), *options]
        for method, options in {**SELECTORS, **TRAINING, **COMPONENTS}.items()
    },
    FLOPS_FAMILY: _encoder(sizes=None, budgets={"flops": FLOPS}),
    "aux-loss": _encoder(sizes=WIDE),
    **{m: [*_encoder(sizes=WIDE), *options] for m, options in COUNTS.items()},
    **{m: [*_encoder(sizes=NARROW), *options] for m, options in FEWER.items()},
    **{method: [] for method in (*MODELS, FINE_TUNED)},
}
METHODS = (INDIVIDUAL, ALONE, *SUPERNETS)
# Configs; of the others: dynsize
CONFIGS = {"aux-loss": "aux_loss", FINE_TUNED: "finetune", **MODELS}
DECODING = {"CTC + attention": "hybrid", "transducer": "transducer"}


def config_file(method: str) -> Path:
    """The supernet's config, to which the method's options are added."""
    return CONF / f"train_asr_{CONFIGS.get(method, 'dynsize')}.yaml"


def run(experiment: Experiment, method: str, seed: int) -> None:
    """Train, cut and score all sizes of a method; add its rows."""
    if method == INDIVIDUAL:
        rows = [_individual(experiment, layers, seed) for layers in LAYERS[::-1]]
    elif method == ALONE:
        found = _supernet(experiment, "simple_top_k", seed)[:-1]
        rows = [_layers_alone(experiment, row, seed) for row in found]
    else:
        rows = _supernet(experiment, method, seed)
    add_rows(rows)


def _supernet(experiment: Experiment, method: str, seed: int) -> list[dict]:
    tag = re.sub(r"[^\w.]+", "_", method) + f"_seed{seed}"
    commit = _commit(experiment.exp / tag)
    arguments = ["--seed", str(seed), *SUPERNETS[method]]
    if method == FINE_TUNED:
        row = _individual(experiment, LAYERS[-1], seed)
        stock = experiment.exp / row["exp"]
        arguments += ["--init_param", str(stock / model_file(stock))]
    supernet = experiment.train(config_file(method), tag, arguments)
    folders = extract_changed(supernet, model_file(supernet))
    layers = NARROW if method in (*FEWER, *MODELS, FINE_TUNED) else WIDE
    return [
        _row(experiment, folder, method, layers, seed, commit)
        for layers, folder in zip(layers, folders.values())
    ]


def _individual(experiment: Experiment, layers: int, seed: int) -> dict:
    blocks = layers // len(KINDS)
    tag = f"conformer{blocks}_seed{seed}"
    commit = _commit(experiment.exp / tag)
    arguments = ["--seed", str(seed), "--encoder_conf", f"num_blocks={blocks}"]
    folder = experiment.train(CONF / "train_asr_conformer.yaml", tag, arguments)
    return _row(experiment, folder, INDIVIDUAL, layers, seed, commit)


def _layers_alone(experiment: Experiment, row: dict, seed: int) -> dict:
    tag = f"alone_{row['layers']}_seed{seed}"
    commit = _commit(experiment.exp / tag)
    arguments = ["--seed", str(seed), "--model", "espnet"]
    arguments += _encoder(sizes=None, keep_layers=row["kept"])
    folder = experiment.train(config_file(ALONE), tag, arguments)
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
    run = measure.recogniser(model, config)
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


def write_tables() -> None:
    rows = read_rows()
    ROWS.with_suffix(".md").write_text(markdown(rows))
    plot_wer(rows, ROWS.with_suffix(".png"))
    plot_layers(rows, ROWS.with_name("an4_family_layers.png"))


def markdown(rows: list[dict]) -> str:
    tables = {
        "Sizes with as many parameters as Conformers of 1, 3 and 6 blocks": _table(
            rows, WIDE, (ALONE, *SELECTORS, *TRAINING, *COMPONENTS)
        ),
        "Sizes with as many FLOPs, or as many layers (4 / 12 / 24)": _table(
            rows, WIDE, (FLOPS_FAMILY, *COUNTS)
        ),
        "8 / 16 / 24 layers": _table(rows, NARROW, (*FEWER, FINE_TUNED)),
        "Other encoders and decoders, 2, 4 and 6 blocks": _table(
            rows, NARROW, tuple(MODELS)
        ),
    }
    parts = [f"## {title}\n\n{table}" for title, table in tables.items() if table]
    return "\n".join([f"{_NOTE}\n", *parts])


_NOTE = (
    "Error rates in %, medians over seeds; dev chooses the epochs that are averaged. "
    "Ratio: mean over sizes of the method's median divided by that of the individually "
    "trained models. Every run is a row of an4_family.jsonl."
)


def _table(rows: list[dict], layers: tuple[int, ...], methods: tuple[str, ...]) -> str:
    """The methods that have rows, next to Conformers of `layers` trained alone."""
    methods = [m for m in methods if any(row["method"] == m for row in rows)]
    if not methods:
        return ""
    alone = [r for r in rows if r["method"] == INDIVIDUAL and r["layers"] in layers]
    header = ["method", "seeds", "thousand parameters", "MFLOPs a second"]
    for name in MEASURES.values():
        header += [name, "ratio"]
    lines = ["| " + " | ".join(header) + " |"]
    lines.append("|---" + "|---:" * (len(header) - 1) + "|")
    for method in (INDIVIDUAL, *methods):
        own = [r for r in rows if r["method"] == method and r["layers"] in layers]
        cells = _cells(own, alone, sorted({row["layers"] for row in own}))
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cells(own: list[dict], alone: list[dict], layers: list[int]) -> list[str]:
    seeds = sorted({sum(row["layers"] == n for row in own) for n in layers})
    sizes = [_median(own, n, "parameters") / 1000 for n in layers]
    flops = [_median(own, n, "mflops") for n in layers]
    cells = ["–".join(map(str, seeds)), _slashed(sizes, 0), _slashed(flops, 0)]
    for kind in MEASURES:
        errors = [_median(own, n, kind) for n in layers]
        base = [_median(alone, n, kind) for n in layers]
        cells.append(_slashed(errors, 1))
        cells.append(f"{mean(a / b for a, b in zip(errors, base)):.3f}")
    return cells


def _slashed(values: list[float], digits: int) -> str:
    return " / ".join(f"{value:.{digits}f}" for value in values)


def _median(rows: list[dict], layers: int, kind: str) -> float:
    return median(row[kind] for row in rows if row["layers"] == layers)


def plot_wer(rows: list[dict], path: Path) -> None:
    """WER against parameters: a line of medians a method, a dot a run."""
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for method in (INDIVIDUAL, *SELECTORS, "published joint step"):
        own = [row for row in rows if row["method"] == method]
        if not own:
            continue
        layers = sorted({row["layers"] for row in own} & {*WIDE})
        x = [_median(own, n, "parameters") / 1e3 for n in layers]
        style = "ks--" if method == INDIVIDUAL else "o-"
        y = [_median(own, n, "wer") for n in layers]
        (line,) = axes.plot(x, y, style, label=method)
        dots = [(r["parameters"] / 1e3, r["wer"]) for r in own if r["layers"] in layers]
        axes.plot(*zip(*dots), ".", color=line.get_color(), alpha=0.5)
    axes.set(xlabel="thousand parameters", ylabel="WER % on AN4 test")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_layers(rows: list[dict], path: Path) -> None:
    """Share of the seeds in which each layer is kept: method × size, block × kind."""
    kept = [r for r in rows if r["method"] in SELECTORS and r["kept"]]
    if not kept:
        return
    methods = [m for m in SELECTORS if any(r["method"] == m for r in kept)]
    sizes = {"small": WIDE[0], "middle": WIDE[1]}
    blocks = (max(max(r["kept"]) for r in kept) + 1) // len(KINDS)
    figure, grid = plt.subplots(
        len(sizes),
        len(methods),
        figsize=(1 + 1.5 * len(methods), 1.2 + 1.7 * len(sizes)),
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    for column, method in enumerate(methods):
        for line, (size, layers) in enumerate(sizes.items()):
            own = [r for r in kept if r["method"] == method and r["layers"] == layers]
            axes = grid[line][column]
            axes.pcolormesh(_shares(own, blocks), cmap="Blues", vmin=0, vmax=1)
            axes.set_title(f"{method}\n{size}", fontsize=7)
            places = [i + 0.5 for i in range(len(KINDS))]
            axes.set_xticks(places, KINDS, rotation=90, fontsize=7)
            axes.set_yticks([i + 0.5 for i in range(blocks)], range(1, blocks + 1))
    for axes in grid[:, 0]:
        axes.set_ylabel("block")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _shares(rows: list[dict], blocks: int) -> list[list[float]]:
    return [
        [mean(block * len(KINDS) + i in r["kept"] for r in rows) for i in range(4)]
        for block in range(blocks)
    ]


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
    write_tables()
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
