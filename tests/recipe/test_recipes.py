"""The scripts of the recipes, on small corpora; without ESPnet's checkout but one."""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import recipes
import soundfile
from fixture_corpora import write_librispeech, write_tedlium2

from espnet_dynsize.corpora.datadir import Utterance

EGS = Path(__file__).resolve().parents[2] / "egs2"
RECIPES = sorted(path.parent for path in EGS.glob("*/*/run.sh"))
NAMED = {path.parent.name.removesuffix("_dynsize"): path for path in RECIPES}
# As Kaldi's: `--name value` sets a variable of the script
PARSE_OPTIONS = 'while [ $# -gt 0 ]; do declare -g "${1#--}"="$2"; shift 2; done\n'
ASR_SH = '#!/usr/bin/env bash\nprintf "%s\\n" "$@" > arguments.txt\n'


def copied(name, tmp_path, monkeypatch) -> Path:
    """A recipe in an ESPnet tree of which there is only what it needs."""
    template = tmp_path / "espnet" / "egs2" / "TEMPLATE" / "asr1"
    for folder in ("scripts", "pyscripts", "utils", "steps"):
        (template / folder).mkdir(parents=True)
    (template / "asr.sh").write_text(ASR_SH)
    (template / "asr.sh").chmod(0o755)
    (template / "utils" / "parse_options.sh").write_text(PARSE_OPTIONS)
    recipe = tmp_path / "espnet" / "egs2" / f"{name}_dynsize" / "asr1"
    shutil.copytree(NAMED[name], recipe)
    monkeypatch.delenv("ESPNET_ROOT", raising=False)
    bin_folder = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", bin_folder, prepend=os.pathsep)
    return recipe


def bash(recipe, *command):
    return subprocess.run(
        ["bash", *command], cwd=recipe, capture_output=True, text=True
    )


def arguments(recipe) -> dict:
    words = (recipe / "arguments.txt").read_text().splitlines()
    return dict(zip((w.removeprefix("--") for w in words[::2]), words[1::2]))


def test_there_are_recipes():
    assert set(NAMED) == {"an4", "librispeech", "tedlium2"}


@pytest.mark.parametrize("name", NAMED)
def test_run_sh_reaches_asr_sh_with_its_own_options(name, tmp_path, monkeypatch):
    recipe = copied(name, tmp_path, monkeypatch)
    done = bash(recipe, "run.sh", "--stop_stage", "11", "--nj", "3", "--num_nodes", "2")
    assert done.returncode == 0, done.stderr
    given = arguments(recipe)
    assert (given["stop_stage"], given["nj"], given["num_nodes"]) == ("11", "3", "2")
    assert given["python"] == "espnet-dynsize run" and "sizes" not in given
    for option in ("asr_config", "inference_config"):
        assert (recipe / given[option]).is_file()
    assert given["asr_exp"] == "exp/asr_train_asr_dynsize"
    assert "lm_exp" not in given
    for link in ("asr.sh", "utils", "steps", "scripts", "pyscripts"):
        assert (recipe / link).is_symlink()


def test_librispeech_100_hours(tmp_path, monkeypatch):
    recipe = copied("librispeech", tmp_path, monkeypatch)
    assert bash(recipe, "run_100h.sh", "--stop_stage", "10").returncode == 0
    given = arguments(recipe)
    assert given["train_set"] == "train_clean_100" and given["expdir"] == "exp_100h"
    assert given["local_data_opts"] == "--train_set train_clean_100"
    assert (recipe / given["asr_config"]).is_file()


def test_100_hours_replace_nothing_of_960(tmp_path, monkeypatch):
    recipe = copied("librispeech", tmp_path, monkeypatch)
    for script, more in (("run.sh", ()), ("run_100h.sh", ("--use_lm", "true"))):
        before = {p: p.read_text() for p in recipe.glob("**/recipe.yaml")}
        done = bash(recipe, script, "--use_lm", "true", *more)
        assert done.returncode == 2 and "train first" in done.stderr
        made = [p.parent for p in recipe.glob("**/recipe.yaml")]
        assert all(p.read_text() == text for p, text in before.items())
        for folder in made:  # as stages 5, 6, 7, 10 and 11 leave them
            (folder / "train").mkdir(exist_ok=True)
            for name in ("tokens.txt", "train/speech_shape", "checkpoint.pth"):
                (folder / name).touch()
    assert {str(path.relative_to(recipe)) for path in made} == {
        *(
            "data/en_token_list/bpe_unigram5000",
            "data/en_100h_token_list/bpe_unigram5000",
        ),
        *(
            "exp/asr_stats_raw_en_bpe5000_sp",
            "exp_100h/asr_stats_raw_en_100h_bpe5000_sp",
        ),
        *("exp/lm_stats_en_bpe5000", "exp_100h/lm_stats_en_100h_bpe5000"),
        *("exp/lm_train_lm", "exp_100h/lm_train_lm"),
        *("exp/asr_train_asr_dynsize", "exp_100h/asr_train_asr_dynsize_100h"),
    }


@pytest.mark.parametrize("script", sorted(EGS.glob("*/asr1/run*.sh")), ids=str)
@pytest.mark.parametrize("question", ["--help", "-h"])
def test_help_without_espnet(script, question, tmp_path, monkeypatch):
    name = script.parent.parent.name.removesuffix("_dynsize")
    recipe = copied(name, tmp_path, monkeypatch)
    shutil.rmtree(tmp_path / "espnet" / "egs2" / "TEMPLATE")
    done = bash(recipe, script.name, question)
    assert done.returncode == 0 and done.stdout.startswith("usage: ./run.sh [--sizes")
    assert "asr.sh" in done.stdout and not (recipe / "asr.sh").exists()


def test_a_language_model_is_decoded_with(tmp_path, monkeypatch):
    recipe = copied("librispeech", tmp_path, monkeypatch)
    command = ("run.sh", "--stop_stage", "11", "--use_lm")
    assert bash(recipe, *command, "false").returncode == 0
    assert arguments(recipe)["inference_config"] == "conf/decode_asr.yaml"
    assert bash(recipe, *command, "true").returncode == 0
    assert arguments(recipe)["inference_config"] == "conf/decode_asr_lm.yaml"
    without = ("--inference_config", "conf/decode_asr.yaml")
    done = bash(recipe, "run.sh", "--use_lm", "true", *without)
    assert done.returncode == 2
    assert "lm_weight of conf/decode_asr.yaml must not be 0" in done.stderr


@pytest.mark.parametrize("name", NAMED)
def test_a_config_without_family_and_bad_sizes(name, tmp_path, monkeypatch):
    recipe = copied(name, tmp_path, monkeypatch)
    done = bash(recipe, "run.sh", "--sizes", "7")
    assert done.returncode == 2
    assert "--sizes 7: 7 is not one of [" in done.stderr
    assert not (recipe / "arguments.txt").exists()


def utterances(folder, prefix, speakers):
    folder.mkdir(exist_ok=True)
    for s in range(speakers):
        for i in range(2):
            wav = folder / f"{prefix}{s}-{i}.wav"
            soundfile.write(wav, 0.1 * np.random.RandomState(i).randn(8000), 16000)
            yield Utterance(f"{prefix}{s}-{i}", f"{prefix}{s}", wav, "SAY IT")


def corpus(layout, tmp_path) -> Path:
    train, test = (
        list(utterances(tmp_path / "a", p, n)) for p, n in (("t", 5), ("e", 2))
    )
    layout(tmp_path / "corpus", train, test)
    return tmp_path / "corpus"


def test_data_of_librispeech(tmp_path, monkeypatch):
    recipe = copied("librispeech", tmp_path, monkeypatch)
    (recipe / "utils").symlink_to("../../TEMPLATE/asr1/utils")
    folder = corpus(write_librispeech, tmp_path)
    monkeypatch.setenv("LIBRISPEECH_DIR", str(folder))
    done = bash(recipe, "local/data.sh", "--train_set", "train_clean_100")
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (recipe / "data").iterdir()} == {
        *("train_clean_100", "dev", "dev_clean", "dev_other"),
        *("test_clean", "test_other"),
    }
    monkeypatch.setenv("LIBRISPEECH_DIR", "/nowhere")
    done = bash(recipe, "local/data.sh")
    assert done.returncode == 2
    assert "/nowhere/LibriSpeech/train-clean-100 does not exist" in done.stderr


def test_data_of_tedlium2(tmp_path, monkeypatch):
    recipe = copied("tedlium2", tmp_path, monkeypatch)
    (recipe / "utils").symlink_to("../../TEMPLATE/asr1/utils")
    folder = corpus(write_tedlium2, tmp_path)
    monkeypatch.setenv("TEDLIUM2_DIR", str(folder))
    done = bash(recipe, "local/data.sh", "--lm_text", "true")
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (recipe / "data").iterdir()} == {
        *("train", "dev", "test", "local")
    }


# As in ESPnet's recipes: helpers are called as local/…, db.sh says where the corpus is
ESPNET_DATA = """#!/usr/bin/env bash
set -eu
. ./db.sh
. ./path.sh
local/HELPER "${VARIABLE}"
echo "$PWD" "${0#*egs2/}" "$@" > espnet_data.txt
"""
ESPNET_HELPER = '#!/usr/bin/env bash\nmkdir -p "data/from_$(basename "$1")"\n'


def write_espnet_data(recipe, espnet_recipe, variable, helpers) -> None:
    """ESPnet's own recipe of the corpus, in the tree around `recipe`."""
    local = recipe.parents[1] / espnet_recipe / "asr1" / "local"
    local.mkdir(parents=True)
    script = ESPNET_DATA.replace("VARIABLE", variable).replace("HELPER", helpers[0])
    for name in ("data.sh", *helpers):
        (local / name).write_text(script if name == "data.sh" else ESPNET_HELPER)
        (local / name).chmod(0o755)


def espnet_call(recipe) -> list[str]:
    """The script of ESPnet's that ran, with its options; it ran in our recipe."""
    folder, *call = (recipe / "espnet_data.txt").read_text().split()
    assert Path(folder) == recipe
    return call


@pytest.mark.parametrize(
    "train_set, espnet_recipe",
    [("train_960", "librispeech"), ("train_clean_100", "librispeech_100")],
)
def test_librispeech_with_espnet_s_own_scripts(
    tmp_path, monkeypatch, installed, train_set, espnet_recipe
):
    recipe = copied("librispeech", tmp_path, monkeypatch)
    (recipe / "utils").symlink_to("../../TEMPLATE/asr1/utils")
    helpers = ("data_prep.sh", "download_and_untar.sh")
    write_espnet_data(recipe, espnet_recipe, "LIBRISPEECH", helpers)
    (tmp_path / "libri").mkdir()
    texts = tmp_path / "libri" / "librispeech-lm-norm.txt.gz"
    texts.touch()
    monkeypatch.setenv("LIBRISPEECH_DIR", str(tmp_path / "libri"))
    if not shutil.which("flac"):
        done = bash(recipe, "local/data.sh", "--train_set", train_set)
        assert done.returncode == 1 and "flac must be in PATH" in done.stderr
    (installed / "flac").touch(0o755)
    command = ("local/data.sh", "--train_set", train_set)
    done = bash(recipe, *command)
    assert done.returncode == 0, done.stderr
    script = f"{espnet_recipe}/asr1/local/data.sh"
    assert espnet_call(recipe) == [script, "--stop_stage", "3"]
    assert (recipe / "data" / "from_libri").is_dir()
    assert bash(recipe, *command, "--lm_text", "true").returncode == 0
    assert espnet_call(recipe) == [script, "--stop_stage", "4"]
    link = recipe / "data" / "local" / "other_text" / texts.name
    assert link.resolve() == texts.resolve()


def test_tedlium2_with_espnet_s_own_scripts(tmp_path, monkeypatch):
    recipe = copied("tedlium2", tmp_path, monkeypatch)
    (recipe / "utils").symlink_to("../../TEMPLATE/asr1/utils")
    helpers = ("prepare_data.sh", "download_data.sh", "join_suffix.py")
    write_espnet_data(recipe, "tedlium2", "TEDLIUM2", helpers)
    monkeypatch.setenv("TEDLIUM2_DIR", str(corpus(write_tedlium2, tmp_path)))
    done = bash(recipe, "local/data.sh")
    assert done.returncode == 1 and "sph2pipe must be in PATH" in done.stderr
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sph2pipe").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    done = bash(recipe, "local/data.sh", "--lm_text", "true")
    assert done.returncode == 0, done.stderr
    assert espnet_call(recipe) == ["tedlium2/asr1/local/data.sh"]
    assert {p.name for p in (recipe / "data").iterdir()} == {"from_corpus", "local"}
    assert (recipe / "data/local/other_text/text").read_text().count("\n") == 10


@pytest.mark.parametrize(
    "name, variable, layout, espnet_recipe",
    [
        ("librispeech", "LIBRISPEECH", write_librispeech, "librispeech"),
        ("tedlium2", "TEDLIUM2", write_tedlium2, "tedlium2"),
    ],
)
def test_data_without_espnet_s_scripts(
    tmp_path, monkeypatch, name, variable, layout, espnet_recipe
):
    recipe = copied(name, tmp_path, monkeypatch)
    (recipe / "utils").symlink_to("../../TEMPLATE/asr1/utils")
    write_espnet_data(recipe, espnet_recipe, variable, ("helper.sh",))
    monkeypatch.setenv(f"{variable}_DIR", str(corpus(layout, tmp_path)))
    done = bash(recipe, "local/data.sh", "--espnet_data", "false")
    assert done.returncode == 0, done.stderr
    assert (recipe / "data" / "dev" / "text").is_file()
    assert not (recipe / "espnet_data.txt").exists()


# What asr.sh's stages leave behind, where these tests can do without their content
STAGES_SH = """#!/usr/bin/env bash
set -eu
stage=1
stop_stage=10000
runs() { [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ]; }
while [ $# -gt 0 ]; do declare "${1#--}"="$2"; shift 2; done
raw=${dumpdir}/raw
if runs 1; then local/data.sh ${local_data_opts:-}; fi
if runs 3; then
    mkdir -p "${raw}/org"
    for name in ${test_sets}; do cp -r "data/${name}" "${raw}"; done
    cp -r "data/${valid_set}" "${raw}/org"
fi
if runs 7; then
    mkdir -p "${lm_exp%/*}"
    ${python} lm.py "${lm_exp}"
fi
if runs 11; then
    ${python} train.py "${inference_asr_model}" --config "${asr_config}" \\
        --output_dir "${asr_exp}" ${asr_args}
fi
if ! runs 12; then exit; fi
for name in ${test_sets}; do
    [ "${name}" = "${valid_set}" ] && name=org/${name}
    for kind in wer cer; do
        folder=${asr_exp}/decode_x/${name}/score_${kind}
        mkdir -p "${folder}"
        cp "${raw}/${name}/text" "${folder%/*}"
        awk '{ id=$1; $1=""; print $0 " (s-" id ")" }' "${raw}/${name}/text" \\
            > "${folder}/ref.trn"
        cp "${folder}/ref.trn" "${folder}/hyp.trn"
        sentences=$(wc -l < "${raw}/${name}/text")
        words=$(($(wc -w < "${raw}/${name}/text") - sentences))
        echo "| Sum/Avg | ${sentences} ${words} | 100.0 0.0 0.0 0.0 0.0 0.0 |" \\
            > "${folder}/result.txt"
    done
done
"""
# A supernet of the config that asr.sh gives, with random weights
TRAIN_PY = """
import argparse, sys
from pathlib import Path
import torch, yaml
from espnet2.tasks.asr import ASRTask
from conftest import TOKENS, fix_masks

args = vars(ASRTask.get_parser().parse_args(sys.argv[2:]))
args |= dict(token_list=TOKENS, token_type="char", bpemodel=None)
model = ASRTask.build_model(argparse.Namespace(**args))
fix_masks(model.schedule)
folder = Path(args["output_dir"])
folder.mkdir(parents=True, exist_ok=True)
(folder / "config.yaml").write_text(yaml.safe_dump(args))
torch.save(model.state_dict(), folder / sys.argv[1])
"""
LM_PY = """
import sys
from pathlib import Path
from experiment import language_model

language_model(Path(sys.argv[1]))
"""


def test_every_stage_with_a_stand_in_for_asr_sh(tmp_path, monkeypatch):
    name = "librispeech"  # which has more options of its own than the others
    recipe = copied(name, tmp_path, monkeypatch)
    template = recipe.parents[1] / "TEMPLATE" / "asr1"
    (template / "asr.sh").write_text(STAGES_SH)
    (recipe / "train.py").write_text(TRAIN_PY)
    (recipe / "lm.py").write_text(LM_PY)
    root = EGS.parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root / "tests"), str(root)]))
    variable, *_ = recipes.RECIPES[name]
    monkeypatch.setenv(variable, str(corpus(write_librispeech, tmp_path)))
    done = bash(recipe, "run.sh", *recipes.options(name))
    assert done.returncode == 0, done.stderr
    check_every_size(recipe, recipes.outcome(recipe / "exp", "fixture"))


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_stage_with_stock_asr_sh(name, tmp_path):
    root, an4 = os.environ.get("ESPNET_ROOT"), os.environ.get("AN4_DIR")
    if not (root and an4):
        pytest.skip("set ESPNET_ROOT to an ESPnet checkout and AN4_DIR to AN4")
    done, *_ = recipes.run(
        name,
        argparse.Namespace(
            exp=tmp_path, corpus_dir=Path(an4), espnet_root=Path(root).resolve()
        ),
    )
    check_every_size(tmp_path / name / "asr1", done)


def check_every_size(recipe, done) -> None:
    """Every size is packed, and scored on every word of every test set."""
    sizes = [16, 32, 48]
    assert len(done["zips"]) == len(sizes)
    scored = {}
    for size, test_set, utterances, words in done["scored"]:
        text = recipe / "dump" / "raw" / test_set / "text"
        lines = [line.split()[1:] for line in text.read_text().splitlines()]
        assert int(utterances) == len(lines) > 0
        assert int(words) == sum(map(len, lines))
        scored.setdefault(test_set, []).append(int(size))
    assert scored and all(each == sizes for each in scored.values())
