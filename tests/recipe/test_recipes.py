"""The recipes' own scripts, on small corpora; without ESPnet's checkout but for one."""

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
    assert given["asr_exp"].startswith("exp/asr_train_asr_dynsize_raw_en_")
    for link in ("asr.sh", "utils", "steps", "scripts", "pyscripts"):
        assert (recipe / link).is_symlink()


def test_librispeech_100_hours(tmp_path, monkeypatch):
    recipe = copied("librispeech", tmp_path, monkeypatch)
    assert bash(recipe, "run_100h.sh", "--stop_stage", "10").returncode == 0
    given = arguments(recipe)
    assert given["train_set"] == "train_clean_100" and given["expdir"] == "exp_100h"
    assert given["local_data_opts"] == "--train_set train_clean_100"
    assert (recipe / given["asr_config"]).is_file()


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


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_stage_with_stock_asr_sh(name, tmp_path):
    root, an4 = os.environ.get("ESPNET_ROOT"), os.environ.get("AN4_DIR")
    if not (root and an4):
        pytest.skip("set ESPNET_ROOT to an ESPnet checkout and AN4_DIR to AN4")
    done = recipes.run(
        name,
        argparse.Namespace(
            exp=tmp_path, corpus_dir=Path(an4), espnet_root=Path(root).resolve()
        ),
    )
    sizes = [16, 32, 48]
    assert len(done["zips"]) == len(sizes)
    references = {}
    for size, test_set, utterances, words in done["scored"]:
        text = tmp_path / name / "asr1" / "dump" / "raw" / test_set / "text"
        lines = [line.split()[1:] for line in text.read_text().splitlines()]
        assert int(utterances) == len(lines) > 0
        assert int(words) == sum(map(len, lines))
        references.setdefault(test_set, []).append(int(size))
    assert references and all(own == sizes for own in references.values())
