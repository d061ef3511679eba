"""The recipes from stage 1 to packing, with stock asr.sh on small corpora.

    python benchmarks/recipes.py --corpus_dir AN4 --espnet_root ESPNET [--recipes NAME]

Corpora of AN4's audio in the layout of LibriSpeech and TED-LIUM 2 go through every
stage of run.sh, in a copy of the recipe's folder. The encoder is narrow and trains for
80 updates: it learns hardly anything, but every size must be cut, decoded, scored,
reported and packed, and every utterance and word be counted. A stage that is done is
not run again. The supernet is also trained on a slurm cluster of two nodes, whose
`sbatch` and `srun` are programs that start processes here. Needs what asr.sh needs
(sclite, perl, tools/activate_python.sh).
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from cluster import write_cluster

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "recipes"
TWO_NODES = "11, two nodes"
# Name, which begins with the stage, → what it is
STEPS = {
    "1": "data preparation",
    "2": "speed perturbation",
    "3": "formatting",
    "4": "removing long and short utterances",
    "5": "BPE",
    "6": "statistics of the language model's text",
    "7": "training of the language model",
    "8": "its perplexity",
    "10": "statistics",
    "11": "training of the supernet",
    TWO_NODES: "the same on two nodes of a cluster, here two processes",
    "12": "cutting, decoding, scoring of every size, report",
    "14": "packing of every size",
}
TRAINING = {
    "max_epoch": 4,
    "num_iters_per_epoch": 20,
    "batch_bins": 1200000,
    "accum_grad": 1,
    "num_workers": 0,
    "keep_nbest_models": 1,
    "optim_conf": "lr=0.01",
    "scheduler_conf": "warmup_steps=10",
}
LANGUAGE_MODEL = {
    "max_epoch": 2,
    "num_iters_per_epoch": 8,
    "accum_grad": 1,
    "num_workers": 0,
    "keep_nbest_models": 1,
    "scheduler_conf": "warmup_steps=10",
    "lm_conf": "layer=1",
}
ENCODER = ("output_size=32", "linear_units=32", "attention_heads=2")
DECODER = ("linear_units=32", "attention_heads=2")
# Name → environment variable of its corpus, utterances a speaker, has a decoder
RECIPES = {
    "librispeech": ("LIBRISPEECH_DIR", 2, True),
    "tedlium2": ("TEDLIUM2_DIR", 5, False),
}


def options(decoder: bool) -> list[str]:
    """Options of run.sh for a run of minutes on a CPU."""
    training = [f"--{name} {value}" for name, value in TRAINING.items()]
    language_model = [f"--{name} {value}" for name, value in LANGUAGE_MODEL.items()]
    training += [f"--encoder_conf {value}" for value in ENCODER]
    training += [f"--decoder_conf {value}" for value in DECODER if decoder]
    search = "--beam_size 1 --lm_weight 0.1"
    if decoder:  # CTC has learned nothing but blanks, the decoder the commonest token
        search += " --ctc_weight 0.0 --maxlenratio 0.1"
    return [
        *(
            "--ngpu",
            "0",
            "--gpu_inference",
            "false",
            "--nj",
            "2",
            "--inference_nj",
            "2",
        ),
        *("--nbpe", "40", "--asr_tag", "fixture", "--inference_args", search),
        # asr.sh names folders after options; a name has 255 characters at most
        *("--use_lm", "true", "--lm_tag", "fixture"),
        *("--lm_args", " ".join(language_model)),
        *("--asr_args", " ".join(training)),
    ]


def prepare(name: str, args) -> Path:
    """A copy of the recipe, and its small corpus beside it."""
    folder = args.exp / name
    if not (folder / "corpus").exists():
        corpus = [sys.executable, HERE.parent / "tests" / "fixture_corpora.py", name]
        corpus += ["--corpus_dir", args.corpus_dir, "--output_dir", folder / "corpus"]
        subprocess.run([*corpus, "--each", str(RECIPES[name][1])], check=True)
    recipe = HERE.parent / "egs2" / f"{name}_dynsize" / "asr1"
    shutil.copytree(recipe, folder / "asr1", dirs_exist_ok=True)
    return folder


def run(name: str, args) -> dict:
    """Run all stages; returns seconds and counts."""
    folder = prepare(name, args)
    done = folder / "seconds.json"
    seconds = json.loads(done.read_text()) if done.exists() else {}
    for step in STEPS:
        if step not in seconds:
            start = time.perf_counter()
            run_step(name, folder, step, args.espnet_root)
            seconds[step] = round(time.perf_counter() - start)
            done.write_text(json.dumps(seconds))
    return dict(recipe=name, seconds=seconds, **outcome(folder / "asr1"))


def run_step(name: str, folder: Path, step: str, espnet_root: Path) -> None:
    """Call run.sh for a step; its output goes to `folder`/stage*.log."""
    variable, _, decoder = RECIPES[name]
    first = step.partition(",")[0]
    last = "13" if first == "12" else first
    path = [str(Path(sys.executable).parent), os.environ["PATH"]]
    log_name, backend, more = f"stage{first}.log", "local", []
    if step == TWO_NODES:
        path.insert(0, str(write_cluster(folder / "cluster").resolve()))
        more = ["--num_nodes", "2", "--asr_tag", "two_nodes"]
        log_name, backend = f"stage{first}_two_nodes.log", "slurm"
    commands = folder / "asr1" / "cmd.sh"
    text = re.sub(
        r"(?m)^cmd_backend=.*", f"cmd_backend='{backend}'", commands.read_text()
    )
    commands.write_text(text)
    with (folder / log_name).open("w") as log:
        subprocess.run(
            ["./run.sh", *options(decoder), "--stage", first, "--stop_stage", last]
            + more,
            cwd=folder / "asr1",
            env={
                **os.environ,
                "ESPNET_ROOT": str(espnet_root.resolve()),
                "PATH": os.pathsep.join(path),
                "OMP_NUM_THREADS": "1",
                variable: str((folder / "corpus").resolve()),
            },
            stdout=log,
            stderr=subprocess.STDOUT,
            check=True,
        )


def outcome(recipe: Path) -> dict:
    """Utterances and words of every size and test set, and the packed files."""
    text = (recipe / "exp" / "asr_fixture" / "RESULTS.md").read_text()
    words = text.partition("### WER")[2].partition("### CER")[0]
    rows = re.findall(r"^\|size(\d+)/[^/]*/(\S+?)\|(\d+)\|(\d+)\|", words, re.M)
    zips = sorted(path.name for path in recipe.glob("exp/asr_fixture_size*/*.zip"))
    return dict(scored=[list(row) for row in rows], zips=zips)


def template(espnet_root: Path) -> str:
    """Which asr.sh it is: ESPnet's version where the tree says it, and the lines."""
    script = (espnet_root / "egs2" / "TEMPLATE" / "asr1" / "asr.sh").read_text()
    version = espnet_root / "espnet" / "version.txt"
    name = version.read_text().strip() if version.exists() else "version not recorded"
    return f"asr.sh of {len(script.splitlines())} lines ({name})"


def markdown(rows: list[dict], which: str) -> str:
    lines = [f"Stock {which}. Seconds on two shared CPU cores.\n"]
    names = [row["recipe"] for row in rows]
    lines += ["| stage | | " + " | ".join(f"{n}, s" for n in names) + " |"]
    lines += ["|---|---" + "|---:" * len(names) + "|"]
    for step, what in STEPS.items():
        cells = [str(row["seconds"].get(step, "–")) for row in rows]
        lines.append(f"| {step} | {what} | " + " | ".join(cells) + " |")
    lines += ["", "| recipe | size | test set | utterances | words |"]
    lines += ["|---|---:|---|---:|---:|"]
    for row in rows:
        for size, name, utterances, words in row["scored"]:
            cells = [row["recipe"], size, name, utterances, words]
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *(f"- {zip_}" for row in rows for zip_ in row["zips"])]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus_dir", type=Path, required=True, help="folder of AN4")
    parser.add_argument("--espnet_root", type=Path, required=True)
    parser.add_argument("--exp", type=Path, default=HERE / "exp" / "recipes")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    args = parser.parse_args()
    rows = [run(name, args) for name in args.recipes]
    which = template(args.espnet_root)
    text = json.dumps(dict(template=which, rows=rows), indent=1)
    RESULT.with_suffix(".json").write_text(text + "\n")
    RESULT.with_suffix(".md").write_text(markdown(rows, which))
    print(markdown(rows, which))


if __name__ == "__main__":
    main()
