import os
import subprocess
from pathlib import Path

import pytest

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.recipe.folders import name_folders
from espnet_dynsize.recipe.options import parse


def test_the_last_one_counts():
    options = parse(["--nj", "4", "--stop-stage", "11", "--nj", "8"])
    assert options == {"nj": "8", "stop_stage": "11"}
    assert options.get("expdir") == "exp" and options.get("asr_args") == ""
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
    (["--asr_config", "conf/train_x.yaml"], "exp/asr_train_x", "exp/lm_train"),
    (
        ["--asr_config", "t.yaml", "--lm_config", "c/train_lm.yaml", "--expdir", "e"]
        + ["--asr_args", "--max_epoch 3 --optim_conf lr=0.1", "--nbpe", "500"],
        "e/asr_t",
        "e/lm_train_lm",
    ),
    (
        ["--asr_config", "t.yaml", "--asr_tag", "a", "--lm_tag", "b"],
        "exp/asr_a",
        "exp/lm_b",
    ),
    (
        ["--asr_exp", "e/x", "--asr_tag", "a", "--lm_exp", "e/y", "--lm_tag", "b"],
        "e/x",
        "e/y",
    ),
]


@pytest.mark.parametrize("argv, asr_exp, lm_exp", CASES)
def test_folders_are_named_after_the_configs(argv, asr_exp, lm_exp, in_folder):
    options = parse(argv)
    name_folders(options)
    assert (options["asr_exp"], options["lm_exp"]) == (asr_exp, lm_exp)
    options = parse([*argv, "--use_lm", "false"])
    name_folders(options)
    assert options["asr_exp"] == asr_exp
    assert options.get("lm_exp") == (lm_exp if "--lm_exp" in argv else "")


@pytest.mark.parametrize("argv, asr_exp, lm_exp", CASES)
def test_asr_sh_takes_the_folders(argv, asr_exp, lm_exp, in_folder):
    """ESPnet's own `asr.sh`, up to the line where it begins its stages."""
    root = os.environ.get("ESPNET_ROOT")
    if not root:
        pytest.skip("set ESPNET_ROOT to an ESPnet checkout")
    template = Path(root) / "egs2" / "TEMPLATE" / "asr1"
    begin, _, _ = (template / "asr.sh").read_text().partition("Main stages start")
    Path("asr.sh").write_text(f"{begin}\necho FOLDERS ${{asr_exp}} ${{lm_exp}}\n")
    for name in ("utils", "scripts", "pyscripts"):
        Path(name).symlink_to(template / name)
    for name in ("path.sh", "cmd.sh"):
        Path(name).touch()
    sets = ["--train_set", "a", "--valid_set", "b", "--test_sets", "c"]
    options = parse([*argv, *sets, "--lm_train_text", "t"])
    name_folders(options)
    done = subprocess.run(
        ["bash", "asr.sh", *options.arguments()], capture_output=True, text=True
    )
    assert f"FOLDERS {asr_exp} {lm_exp}\n" in done.stdout, done.stderr


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def trained(*argv) -> None:
    """As if asr.sh had trained both models with these options."""
    options = parse(["--asr_config", "c/x.yaml", *argv])
    name_folders(options)
    for kind in ("asr", "lm"):
        Path(options[f"{kind}_exp"], "checkpoint.pth").touch()


def named(*argv) -> str:
    options = parse(["--asr_config", "c/x.yaml", *argv])
    name_folders(options)
    return options["asr_exp"]


def test_the_same_run_goes_on_in_its_folder(in_folder):
    trained("--nbpe", "30")
    assert named("--nbpe", "30", "--nj", "5", "--ngpu", "2") == "exp/asr_x"


@pytest.mark.parametrize(
    "option, value",
    [
        ("asr_args", "--max_epoch 3"),
        ("nbpe", "40"),
        ("token_type", "char"),
        ("feats_type", "fbank"),
        ("speed_perturb_factors", "0.9 1.0 1.1"),
        ("train_set", "train_more"),
        ("pretrained_model", "a.pth"),
        ("asr_config", "published/x.yaml"),
    ],
)
def test_another_run_never_shares_its_folder(in_folder, option, value):
    trained("--nbpe", "30")
    message = rf"--{option} '.*' must be '.*', with which exp/asr_x was trained: name"
    with pytest.raises(ConfigError, match=message):
        named("--nbpe", "30", f"--{option}", value)
    names = (f"--{option}", value, "--asr_tag", "second", "--lm_tag", "second")
    assert named("--nbpe", "30", *names) == "exp/asr_second"


def test_another_language_model_never_shares_its_folder(in_folder):
    trained()
    message = r"--lm_args '--max_epoch 3' must be '', .* exp/lm_train was .* --lm_tag"
    with pytest.raises(ConfigError, match=message):
        named("--lm_args", "--max_epoch 3")
    assert named("--lm_args", "--max_epoch 3", "--use_lm", "false") == "exp/asr_x"


@pytest.mark.parametrize(
    "options",
    [
        ("--stage", "12"),
        ("--stop_stage", "6"),
        ("--skip_train", "true"),
        ("--skip_stages", "7 11"),
    ],
)
def test_what_does_not_train_is_not_compared(in_folder, options):
    trained()
    assert named("--asr_args", "--max_epoch 3", *options) == "exp/asr_x"


def test_a_folder_without_a_model_is_free(in_folder):
    named("--asr_args", "--max_epcoh 3")  # with which nothing was trained
    assert named("--asr_args", "--max_epoch 3") == "exp/asr_x"


def test_a_folder_of_unknown_origin(in_folder):
    Path("exp/asr_x").mkdir(parents=True)
    Path("exp/asr_x/3epoch.pth").touch()
    with pytest.raises(ConfigError, match="exp/asr_x has a model, but no recipe.yaml"):
        named()
    assert named("--asr_exp", "exp/asr_x") == "exp/asr_x"
