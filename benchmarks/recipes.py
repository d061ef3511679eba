"""The recipes from stage 1 to packing, with stock asr.sh on small corpora.

    python benchmarks/recipes.py --corpus_dir AN4 --espnet_root ESPNET [--recipes NAME]

Corpora of AN4's audio in the layout of LibriSpeech and TED-LIUM 2 go through every
stage of run.sh, in a copy of the recipe's folder. The encoder is narrow and trains for
80 updates: it learns hardly anything, but every size must be cut, decoded, scored,
reported and packed, and every utterance and word be counted. A stage that is done is
not run again. The supernet is also trained on a slurm cluster of two nodes, whose
`sbatch` and `srun` are programs that start processes here. Then come `VARIANTS`, a call
of run.sh each, with the other options that docs/asr_sh.md says work. Needs what asr.sh
needs (sclite, perl, tools/activate_python.sh).
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from cluster import write_cluster

from espnet_dynsize.core.process import end_on_signals, run_child

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
    "an4": ("AN4_DIR", None, False),  # the corpus itself
}
# Recipe, variant (its --asr_tag), folder of its experiments → options of run.sh
VARIANTS = {
    ("librispeech", "folders", "exp_folders"): (
        "--stage 1 --stop_stage 14 --lang xx --token_type char --use_lm false "
        "--expdir exp_folders --dumpdir dump_folders --asr_stats_dir exp_folders/stats "
        "--eval_valid_set true --inference_tag tagged --speed_perturb_factors '' "
        "--audio_format wav --inference_asr_model valid.acc.best.pth"
    ),
    ("librispeech", "tuned", "exp"): (
        "--stop_stage 14 --skip_data_prep true --skip_stages '6 7 8 10' "
        "--test_sets test_other "
        "--sizes '16 48' --skip_packing true --lm_exp exp/lm_fixture "
        "--pretrained_model exp/asr_fixture/valid.acc.ave.pth "
        "--ignore_init_mismatch true --inference_asr_model valid.acc.best.pth"
    ),
    ("tedlium2", "tokens", "exp"): (
        "--stage 4 --stop_stage 14 --lang yy --nbpe 45 --bpemode bpe "
        "--bpe_char_cover 0.99 --bpe_input_sentence_size 2000 --bpe_nlsyms '<noise>' "
        "--bpe_train_text data/dev/text --lm_train_text data/dev/text "
        "--lm_stats_dir exp/lm_stats_of_dev --lm_tag tokens --test_sets test"
    ),
    ("an4", "hybrid", "exp"): (
        "--stage 10 --stop_stage 14 --use_lm false "
        "--asr_config conf/train_asr_hybrid.yaml "
        "--inference_config conf/decode_hybrid.yaml "
        "--inference_asr_model valid.acc.ave.pth"
    ),
    ("an4", "transducer", "exp"): (
        "--stage 10 --stop_stage 14 --use_lm false "
        "--asr_config conf/train_asr_transducer.yaml "
        "--inference_config conf/decode_transducer.yaml "
        "--inference_asr_model valid.loss.ave.pth"
    ),
    ("an4", "branchformer", "exp"): (
        "--stage 10 --stop_stage 14 --use_lm false "
        "--asr_config conf/train_asr_e_branchformer.yaml"
    ),
    ("an4", "streaming", "exp"): (
        "--stage 10 --stop_stage 14 --use_lm false --use_streaming true "
        "--asr_config conf/train_asr_streaming.yaml "
        "--inference_config conf/decode_streaming.yaml"
    ),
    ("an4", "chunked", "exp"): (
        "--stage 10 --stop_stage 14 --use_lm false --asr_task asr_transducer "
        "--asr_config conf/train_asr_chunked.yaml --asr_args '{training}' "
        "--inference_config conf/decode_chunked.yaml "
        "--inference_asr_model valid.loss.ave.pth"
    ),
    ("an4", "words", "exp"): (
        "--stage 4 --stop_stage 14 --use_lm false --token_type word"
    ),
    ("an4", "parts", "exp"): (
        "--stage 10 --stop_stage 14 --use_lm false --num_splits_asr 2 "
        "--asr_args '{asr_args} --model_conf selector_conf.search_fraction=null "
        "--model_conf selector_conf.search_updates=20'"
    ),
}


def options(name: str) -> list[str]:
    """Options of run.sh of a recipe for a run of minutes on a CPU."""
    decoder = RECIPES[name][2]
    language_model = [f"--{name} {value}" for name, value in LANGUAGE_MODEL.items()]
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
        # ESPnet's scripts count TED-LIUM's files; those of LibriSpeech take any part.
        *(("--local_data_opts", "--espnet_data false") if name == "tedlium2" else ()),
        *("--skip_packing", "false"),
        # asr.sh names folders after options; a name has 255 characters at most
        *("--use_lm", "false" if name == "an4" else "true", "--lm_tag", "fixture"),
        *("--lm_args", " ".join(language_model)),
        *("--asr_args", asr_args(name)),
    ]


def asr_args(name: str) -> str:
    """Options of a recipe's training."""
    training = [training_args()]
    training += [f"--encoder_conf {value}" for value in ENCODER]
    training += [f"--decoder_conf {value}" for value in DECODER if RECIPES[name][2]]
    return " ".join(training)


def training_args() -> str:
    """Those that every training has."""
    return " ".join(f"--{name} {value}" for name, value in TRAINING.items())


def prepare(name: str, args) -> Path:
    """A copy of the recipe, and its small corpus beside it."""
    folder = args.exp / name
    each = RECIPES[name][1]
    if each is not None and not (folder / "corpus").exists():
        corpus = [sys.executable, HERE.parent / "tests" / "fixture_corpora.py", name]
        corpus += ["--corpus_dir", args.corpus_dir, "--output_dir", folder / "corpus"]
        _call([*corpus, "--each", str(each)])
    recipe = HERE.parent / "egs2" / f"{name}_dynsize" / "asr1"
    shutil.copytree(recipe, folder / "asr1", dirs_exist_ok=True)
    return folder


def run(name: str, args) -> list[dict]:
    """Run all stages, then the variants; returns a row for each, seconds and counts."""
    folder = prepare(name, args)
    done = folder / "seconds.json"
    seconds = json.loads(done.read_text()) if done.exists() else {}
    calls = {step: stage_options(step) for step in STEPS}
    variants = {
        v[1:]: text.format(asr_args=asr_args(name), training=training_args())
        for v, text in VARIANTS.items()
        if v[0] == name
    }
    for (tag, _), options in variants.items():
        calls[tag] = [*shlex.split(options), "--asr_tag", tag]
    for call, options in calls.items():
        if call not in seconds:
            backend = "slurm" if call == TWO_NODES else "local"
            start = time.perf_counter()
            run_sh(name, folder, call, options, args, backend)
            seconds[call] = round(time.perf_counter() - start)
            done.write_text(json.dumps(seconds))
    rows = [dict(recipe=name, seconds={step: seconds[step] for step in STEPS})]
    rows[0] |= outcome(folder / "asr1" / "exp", "fixture")
    for (tag, exp), options in variants.items():
        row = dict(recipe=name, variant=tag, options=options, seconds=seconds[tag])
        rows.append(row | outcome(folder / "asr1" / exp, tag))
    return rows


def stage_options(step: str) -> list[str]:
    first = step.partition(",")[0]
    last = "13" if first == "12" else first
    more = ["--stage", first, "--stop_stage", last]
    if step == TWO_NODES:
        more += ["--num_nodes", "2", "--asr_tag", "two_nodes"]
    return more


def run_sh(
    name: str, folder: Path, call: str, more: list[str], args, backend: str
) -> None:
    """Call run.sh; its output goes to a log in `folder`."""
    variable, each, _ = RECIPES[name]
    corpus = args.corpus_dir if each is None else folder / "corpus"
    path = [str(Path(sys.executable).parent), os.environ["PATH"]]
    if backend == "slurm":
        path.insert(0, str(write_cluster(folder / "cluster").resolve()))
    commands = folder / "asr1" / "cmd.sh"
    text = re.sub(
        r"(?m)^cmd_backend=.*", f"cmd_backend='{backend}'", commands.read_text()
    )
    commands.write_text(text)
    with (folder / f"{call.replace(', ', '_').replace(' ', '_')}.log").open("w") as log:
        _call(
            ["./run.sh", *options(name), *more],
            cwd=folder / "asr1",
            env={
                **os.environ,
                "ESPNET_ROOT": str(args.espnet_root.resolve()),
                "PATH": os.pathsep.join(path),
                "OMP_NUM_THREADS": "1",
                variable: str(corpus.resolve()),
            },
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _call(command: list, **options) -> None:
    code = run_child(command, **options)
    if code != 0:
        raise subprocess.CalledProcessError(code, command)


def outcome(exp: Path, tag: str) -> dict:
    """Utterances and words of every size and test set, and the packed files."""
    text = (exp / f"asr_{tag}" / "RESULTS.md").read_text()
    words = text.partition("### WER")[2].partition("### CER")[0]
    rows = re.findall(r"^\|size(\d+)/[^/]*/(\S+?)\|(\d+)\|(\d+)\|", words, re.M)
    zips = sorted(path.name for path in exp.glob(f"asr_{tag}_size*/*.zip"))
    return dict(scored=[list(row) for row in rows], zips=zips)


def template(espnet_root: Path) -> str:
    """Which asr.sh it is: ESPnet's version where the tree says it, and the lines."""
    script = (espnet_root / "egs2" / "TEMPLATE" / "asr1" / "asr.sh").read_text()
    # A checkout has it in the package, ESPnet's source distribution at its root.
    versions = (espnet_root / "espnet" / "version.txt", espnet_root / "version.txt")
    found = [path.read_text().strip() for path in versions if path.exists()]
    name = found[0] if found else "version not recorded"
    return f"asr.sh of {len(script.splitlines())} lines ({name})"


def markdown(rows: list[dict], which: str) -> str:
    stages = [row for row in rows if "variant" not in row]
    lines = [f"Stock {which}. Seconds on two shared CPU cores.\n"]
    names = [row["recipe"] for row in stages]
    lines += ["| stage | | " + " | ".join(f"{n}, s" for n in names) + " |"]
    lines += ["|---|---" + "|---:" * len(names) + "|"]
    for step, what in STEPS.items():
        cells = [str(row["seconds"].get(step, "–")) for row in stages]
        lines.append(f"| {step} | {what} | " + " | ".join(cells) + " |")
    lines += ["", "| recipe | one more call of run.sh with | s |", "|---|---|---:|"]
    for row in rows:
        if "variant" in row:
            cells = (row["recipe"], f"`{row['options']}`", str(row["seconds"]))
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| recipe | size | test set | utterances | words |"]
    lines += ["|---|---:|---|---:|---:|"]
    for row in rows:
        name = " ".join([row["recipe"], row.get("variant", "")]).strip()
        for size, test_set, utterances, words in row["scored"]:
            cells = [name, size, test_set, utterances, words]
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
    end_on_signals()
    rows = [row for name in args.recipes for row in run(name, args)]
    which = template(args.espnet_root)
    text = json.dumps(dict(template=which, rows=rows), indent=1)
    RESULT.with_suffix(".json").write_text(text + "\n")
    RESULT.with_suffix(".md").write_text(markdown(rows, which))
    print(markdown(rows, which))


if __name__ == "__main__":
    main()
