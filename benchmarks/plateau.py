"""When does CTC leave its plateau of blanks? Short trainings with one thing changed.

    python benchmarks/plateau.py --corpus_dir DIR [--variants V ...] [--seeds 0 1]
        [--folds 0 | official]

CTC first predicts blanks alone. Families begin with an output layer that does so, and
stock models get its bias by --init_param; with --start random, neither has it. Each
variant trains for a third of the AN4 recipe's epochs, and a row of
results/plateau.jsonl has the dev CER after each; the table says in which epoch it falls
below 50 %. Rows that are there are not run again. A fold is the test set, which is not
looked at.
"""

import argparse
import json
import logging
import os
import platform
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

from an4_methods import CONF, SUPERNETS, arguments
from blanks import write_bias
from espnet2.train.reporter import Reporter
from folds import add_folds, prepared

from espnet_dynsize.core.checkpoint import read_checkpoint
from espnet_dynsize.core.process import end_on_signals
from espnet_dynsize.demo.stages import Experiment

HERE = Path(__file__).resolve().parent
ROWS = HERE / "results" / "plateau.jsonl"
RUN, EPOCHS = 40, 13
PAST = 50.0  # per cent
_REVISION = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
COMMIT = subprocess.run(_REVISION, capture_output=True, text=True).stdout.strip()
SELECTORS = ("simple_top_k", "iterative_zero_out", "uniform", "first")
MODELS = {
    "6 blocks": ("--encoder_conf", "num_blocks=6"),
    "3 blocks": ("--encoder_conf", "num_blocks=3"),
    "1 block": ("--encoder_conf", "num_blocks=1"),
    **dict.fromkeys(SELECTORS, ()),
}
# Name → options of asr_train
VARIANTS = {
    "as it is": (),
    "no SpecAugment": ("--specaug", "null"),
    "no speed perturbation": ("--preprocessor_conf", "data_aug_prob=0.0"),
    "warm-up 400": ("--scheduler_conf", "warmup_steps=400"),
    "warm-up 1600": ("--scheduler_conf", "warmup_steps=1600"),
    "peak 0.001": ("--optim_conf", "lr=0.001"),
    "peak 0.004": ("--optim_conf", "lr=0.004"),
    "peak 0.008": ("--optim_conf", "lr=0.008"),
    "Xavier's initial weights": ("--init", "xavier_uniform"),
    "half the batch": ("--batch_bins", "200000"),
    "a quarter of the batch": ("--batch_bins", "100000"),
    "an eighth of the batch": ("--batch_bins", "50000"),
    "twice the batch": ("--batch_bins", "800000"),
    "no dropout": (
        *("--encoder_conf", "dropout_rate=0.0"),
        *("--encoder_conf", "positional_dropout_rate=0.0"),
    ),
    "Adam with beta 0.98": ("--optim_conf", "betas=[0.9, 0.98]"),
    "no clipping": ("--grad_clip", "inf"),
    "no clipping, beta 0.98": (
        *("--grad_clip", "inf"),
        *("--optim_conf", "betas=[0.9, 0.98]"),
    ),
    "subsampling by 2": ("--encoder_conf", "input_layer=conv2d2"),
    "subsampling by 6": ("--encoder_conf", "input_layer=conv2d6"),
    # Of supernets
    "joint from the start": ("--model_conf", "selector_conf.search_fraction=0.0"),
    "a third of the search": ("--model_conf", "selector_conf.search_fraction=0.2"),
    "no stochastic depth": ("--model_conf", "layer_drop_joint=0.0"),
    "no distillation": ("--model_conf", "distill_weight=0.0"),
    "subnet_weight 0.2": ("--model_conf", "subnet_weight=0.2"),
    "bias of blank 6": ("--init_param", "{bias_6}"),
    "bias of blank -2": ("--init_param", "{bias_-2}"),
}
STARTS = ("blanks", "random")


def run(
    experiment: Experiment, model: str, variant: str, start: str, seed: int, fold: str
) -> dict:
    """Train; returns a row."""
    config = "dynsize" if model in SELECTORS else "conformer"
    options = [*MODELS[model]]
    if model in SELECTORS:
        options += arguments(_begun(SUPERNETS[model]))
    tag = f"{model}_{variant}_{start}_seed{seed}".replace(" ", "_")
    options += VARIANTS[variant]
    family = model in SELECTORS
    if "--init_param" not in options and family == (start == "random"):
        options += ["--init_param", "{bias_0}" if family else "{bias_blanks}"]
    options = list(map(partial(_with_bias, experiment), options))
    options += ["--seed", str(seed)]
    options += ["--max_epoch", str(EPOCHS), "--keep_nbest_models", "1"]
    folder = experiment.train(CONF / f"train_asr_{config}.yaml", tag, options)
    return dict(
        model=model,
        variant=variant,
        start=start,
        options=list(VARIANTS[variant]),
        seed=seed,
        fold=fold,
        dev_cer=dev_cer(folder),
        commit=COMMIT,
        machine=f"{platform.machine()} CPU, one thread",
    )


def _begun(changes: dict) -> dict:
    """A supernet's options, with a search as long as in the whole run."""
    changes = {"model_conf": dict(changes.get("model_conf", {}))}
    conf = dict(changes["model_conf"].get("selector_conf") or {"search_fraction": 0.2})
    # One that ends later lasts for all of it.
    conf["search_fraction"] = min(conf["search_fraction"] * RUN / EPOCHS, 0.999)
    changes["model_conf"]["selector_conf"] = conf
    return changes


def _with_bias(experiment: Experiment, option: str) -> str:
    """`{bias_B}` becomes a checkpoint with nothing but the output layer's bias."""
    if not option.startswith("{bias_"):
        return option
    return str(write_bias(experiment, option[len("{bias_") : -1]))


def dev_cer(folder: Path) -> list[float]:
    """Per cent after every epoch: of a family, the full size's."""
    reporter = Reporter()
    reporter.load_state_dict(read_checkpoint(folder / "checkpoint.pth")["reporter"])
    epochs = range(1, reporter.get_epoch() + 1)
    sizes = [
        int(key.removeprefix("cer_ctc_"))
        for key in reporter.stats[1]["valid"]
        if re.fullmatch(r"cer_ctc_\d+", key)
    ]
    # The search hides the value by which models are chosen, not those of the sizes.
    key = f"cer_ctc_{max(sizes)}" if sizes else "cer_ctc"
    values = [reporter.get_value("valid", key, epoch) for epoch in epochs]
    return [round(100 * float(value), 1) for value in values]


def past(row: dict) -> int | None:
    """The first epoch in which the dev CER is below 50 %."""
    epochs = enumerate(row["dev_cer"], 1)
    return next((epoch for epoch, cer in epochs if cer < PAST), None)


def read_rows() -> list[dict]:
    if not ROWS.exists():
        return []
    return [json.loads(line) for line in ROWS.read_text().splitlines()]


def key(row: dict) -> tuple[str, str, str, int, str]:
    # The first rows have the fold as a number.
    return *(row[k] for k in ("model", "variant", "start", "seed")), str(row["fold"])


def add_row(row: dict) -> None:
    rows = {key(old): old for old in read_rows()}
    rows[key(row)] = row
    ROWS.write_text("".join(json.dumps(rows[k]) + "\n" for k in sorted(rows)))


def markdown(rows: list[dict]) -> str:
    lines = [
        f"The epoch, of {EPOCHS}, in which the dev CER falls below {PAST} %, and CER "
        "after the last one; by fold and seed.\n",
        "| model | output layer | training | folds | seeds | epoch | dev CER % |",
        "|---|---|---|---|---|---|---|",
    ]

    def name(row: dict) -> tuple[str, str, str]:
        return row["model"], row["start"], row["variant"]

    for names in dict.fromkeys(map(name, rows)):
        chosen = [row for row in rows if name(row) == names]
        cells = [*names]
        for name_of in ("fold", "seed"):
            cells.append(", ".join(str(row[name_of]) for row in chosen))
        cells.append(", ".join(str(past(row) or "–") for row in chosen))
        cells.append(", ".join(f"{row['dev_cer'][-1]:.1f}" for row in chosen))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus_dir", type=Path, help="folder of AN4")
    parser.add_argument("--exp", type=Path, default=HERE / "exp" / "plateau")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["6 blocks"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=[*VARIANTS])
    parser.add_argument("--start", choices=STARTS, default="blanks")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    add_folds(parser, ["0"])
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at once")
    args = parser.parse_args()
    end_on_signals()
    logging.disable(logging.WARNING)
    experiments = {f: prepared(args.corpus_dir, args.exp, f) for f in args.folds}
    wanted = [
        (model, variant, args.start, seed, fold)
        for fold in args.folds
        for variant in args.variants
        for model in args.models
        for seed in args.seeds
    ]
    done = set(map(key, read_rows()))
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = [
            pool.submit(run, experiments[names[-1]], *names)
            for names in wanted
            if names not in done
        ]
        for job in as_completed(jobs):
            add_row(job.result())
    ROWS.with_suffix(".md").write_text(markdown(read_rows()))
    print(markdown(read_rows()))


if __name__ == "__main__":
    main()
