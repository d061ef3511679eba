import os
import subprocess
from pathlib import Path

import pytest

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.recipe.options import experiment_folder, lm_tag, parse


def test_the_last_one_counts():
    options = parse(["--nj", "4", "--stop-stage", "11", "--nj", "8"])
    assert options == {"nj": "8", "stop_stage": "11"}
    assert options.get("nbpe") == "30" and options.get("asr_args") == ""
    assert options.arguments(nj=2, stage=3) == [
        *("--nj", "2", "--stop_stage", "11", "--stage", "3")
    ]


@pytest.mark.parametrize("argv", [["x"], ["--nj"], ["--nj=3", "4"], ["--nj", "4", "y"]])
def test_what_is_not_name_value(argv):
    with pytest.raises(ConfigError, match="options must be of the form --name value"):
        parse(argv)


def test_a_stage_that_is_not_a_number():
    with pytest.raises(ConfigError, match="--stage three must be a number"):
        parse(["--stage", "three"]).number("stage")


CASES = [
    (["--asr_config", "conf/train_x.yaml"], "exp/asr_train_x_raw_bpe30", "train_bpe30"),
    (
        ["--asr_config", "c/t.yaml", "--lang", "en", "--nbpe", "500", "--asr_args"]
        + ["--max_epoch 3 --optim_conf lr=0.1", "--speed_perturb_factors", "0.9 1.0"]
        + ["--lm_config", "conf/train_lm.yaml", "--lm_args", "--max_epoch 2"],
        "exp/asr_t_raw_en_bpe500_max_epoch3_optim_conflr0.1_sp",
        "train_lm_en_bpe500_max_epoch2",
    ),
    (
        ["--asr_config", "t.yaml", "--token_type", "char", "--feats_type", "raw_copy"],
        "exp/asr_t_raw_copy_char",
        "train_char",
    ),
]


@pytest.mark.parametrize("argv, folder, lm", CASES)
def test_folders_are_named_as_asr_sh_names_them(argv, folder, lm):
    options = parse(argv)
    assert str(experiment_folder(options)) == folder
    assert lm_tag(options) == lm


@pytest.mark.parametrize("argv, folder, lm", CASES)
def test_asr_sh_agrees(argv, folder, lm, tmp_path):
    """ESPnet's own `asr.sh`, up to the line where it begins its stages."""
    root = os.environ.get("ESPNET_ROOT")
    if not root:
        pytest.skip("set ESPNET_ROOT to an ESPnet checkout")
    template = Path(root) / "egs2" / "TEMPLATE" / "asr1"
    begin, _, _ = (template / "asr.sh").read_text().partition("Main stages start")
    (tmp_path / "asr.sh").write_text(
        f"{begin}\necho FOLDERS ${{asr_exp}} ${{lm_exp}}\n"
    )
    for name in ("utils", "scripts", "pyscripts"):
        (tmp_path / name).symlink_to(template / name)
    for name in ("path.sh", "cmd.sh"):
        (tmp_path / name).touch()
    sets = ["--train_set", "a", "--valid_set", "b", "--test_sets", "c"]
    done = subprocess.run(
        ["bash", "asr.sh", *argv, *sets, "--lm_train_text", "t"],
        capture_output=True,
        cwd=tmp_path,
        text=True,
    )
    assert f"FOLDERS {folder} exp/lm_{lm}" in done.stdout, done.stderr


def test_given_names():
    assert str(experiment_folder(parse(["--asr_tag", "a"]))) == "exp/asr_a"
    assert str(experiment_folder(parse(["--asr_exp", "e/x"]))) == "e/x"
