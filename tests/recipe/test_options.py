import os
import subprocess
from pathlib import Path

import pytest
import yaml

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.recipe.asr_sh import check_names, read_defaults
from espnet_dynsize.recipe.folders import claim_shared, name_folders
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


@pytest.mark.parametrize(
    "argv, skipped",
    [
        ([], {9, 14, 15}),
        (["--use_lm", "false", "--skip_stages", "11 13"], {6, 7, 8, 9, 11, 13, 14, 15}),
        (["--skip_train", "true"], {2, *range(4, 12), 14, 15}),
        (["--skip_data_prep", "true", "--use_ngram", "true"], {*range(1, 6), 14, 15}),
        (["--skip_eval", "true", "--skip_packing", "false"], {9, 12, 13, 15}),
    ],
)
def test_skipped_stages(argv, skipped):
    options = parse(argv)
    assert options.skipped() == skipped
    assert [s for s in range(1, 16) if not options.runs(s)] == sorted(skipped)


@pytest.mark.parametrize("value", ["12,13", "12-13", "score"])
def test_skipped_stages_are_numbers(value):
    with pytest.raises(ConfigError, match=f"--skip_stages '{value}' must be numbers"):
        parse(["--skip_stages", value]).skipped()


def test_asr_sh_can_add_to_skipped_stages():
    assert parse(["--skip_stages", "7 11"]).arguments() == ["--skip_stages", "7 11 "]


def test_test_sets_count_once():
    assert parse(["--test_sets", "a b a"]).test_sets() == ["a", "b"]


SCRIPT = """#!/usr/bin/env bash
log() {
    local fname=x
}
stage=1    # the first
dumpdir=elsewhere
use_lm=true
test_sets=
oov="<unk>"
inference_ngram=${ngram_num}gram.bin
help_message=$(cat << EOF
run_args=$(x)
. utils/parse_options.sh
later=1
"""


def test_the_options_of_asr_sh(tmp_path):
    (tmp_path / "asr.sh").write_text(SCRIPT)
    known = read_defaults(tmp_path / "asr.sh")
    assert known == dict(
        stage="1",
        dumpdir="elsewhere",
        use_lm="true",
        test_sets="",
        oov="<unk>",
        inference_ngram="",
    )
    options = parse(["--stage", "2"])
    check_names(options, tmp_path / "asr.sh")
    assert options.get("dumpdir") == "elsewhere" and options.get("expdir") == "exp"
    for argv, message in (
        (["--tests_sets", "a"], r"--tests_sets a must be an option of .*asr.sh: did"),
        (["--tests_sets", "a"], r"did you mean --test_sets\?"),
        (["--xyz", "a"], r"asr.sh\."),
        (["--use_lm", "True"], "--use_lm True must be true or false"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_names(parse(argv), tmp_path / "asr.sh")


def test_a_script_that_reads_options_otherwise(tmp_path):
    (tmp_path / "asr.sh").write_text("stage=1\n")
    check_names(parse(["--xyz", "a"]), tmp_path / "asr.sh")


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
    shown = "${asr_exp} ${lm_exp} ${bpedir} ${asr_stats_dir} ${skip_stages}"
    Path("asr.sh").write_text(f"{begin}\necho FOLDERS {shown}\n")
    for name in ("utils", "scripts", "pyscripts"):
        Path(name).symlink_to(template / name)
    for name in ("path.sh", "cmd.sh"):
        Path(name).touch()
    sets = ["--train_set", "a", "--valid_set", "b", "--test_sets", "c"]
    sets += ["--skip_stages", "7 11", "--feats_type", "raw"]
    options = parse([*argv, *sets, "--lm_train_text", "t"])
    check_names(options, Path("asr.sh"))
    name_folders(options)
    claim_shared(options, {})
    (tokens,) = Path("data").glob("**/recipe.yaml")
    (stats,) = Path().glob("*/asr_stats*/recipe.yaml")
    done = subprocess.run(
        ["bash", "asr.sh", *options.arguments()], capture_output=True, text=True
    )
    skipped = " ".join(map(str, sorted(options.skipped())))
    shown = f"{asr_exp} {lm_exp} {tokens.parent} {stats.parent} {skipped}"
    assert f"FOLDERS {shown}\n" in done.stdout, done.stderr


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
    message = rf"--{option} '.*' must be '.*', with which exp/asr_x was made: name"
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
    with pytest.raises(ConfigError, match="exp/asr_x has files, but no recipe.yaml"):
        named()
    assert named("--asr_exp", "exp/asr_x") == "exp/asr_x"


@pytest.mark.parametrize(
    "text, message",
    [
        ("title: mine\n", "was not written by espnet-dynsize: remove or rename it"),
        ("", "must have keys and values"),
        ("[1, 2]\n", "must have keys and values"),
    ],
)
@pytest.mark.parametrize("filled", [True, False])
def test_a_record_of_somebody_else_s(in_folder, text, message, filled):
    record = Path("exp/asr_x/recipe.yaml")
    record.parent.mkdir(parents=True)
    record.write_text(text)
    if filled:
        Path("exp/asr_x/3epoch.pth").touch()
    with pytest.raises(ConfigError, match=f"exp/asr_x/recipe.yaml {message}"):
        named()
    assert record.read_text() == text


# -- what several models share --


def made(*argv, **config) -> None:
    """As if asr.sh had made token lists and statistics with these options."""
    options = parse(argv)
    claim_shared(options, config)
    for record in Path().glob("**/recipe.yaml"):
        (record.parent / "tokens.txt").touch()
        (record.parent / "train").mkdir(exist_ok=True)
        (record.parent / "train" / "text_shape").touch()


RUN = ("--lang", "en", "--nbpe", "50", "--train_set", "big")


@pytest.mark.parametrize(
    "argv, folder",
    [
        (["--bpe_train_text", "data/small/text"], "data/en_token_list/bpe_unigram50"),
        (["--dumpdir", "dump2"], "data/en_token_list/bpe_unigram50"),
        (["--bpe_char_cover", "0.9"], "data/en_token_list/bpe_unigram50"),
        (["--fs", "8k"], "exp/asr_stats_raw_en_bpe50"),
        (["--lm_dev_text", "d"], "exp/lm_stats_en_bpe50"),
    ],
)
def test_shared_files_are_not_replaced(in_folder, argv, folder):
    made(*RUN)
    record = Path(folder, "recipe.yaml")
    before = record.read_text()
    made(*RUN, "--nj", "3")  # the same run again
    with pytest.raises(ConfigError, match=f"must be .*{folder} was made: give this"):
        made(*RUN, *argv)
    assert record.read_text() == before
    made(*RUN, *argv, "--lang", "en_small")  # has its own
    made(*RUN, *argv, "--stage", "11")  # makes none


def test_characters_come_from_the_language_model_s_text(in_folder):
    run = (*RUN, "--token_type", "char")
    made(*run)
    assert Path("data/en_token_list/char/recipe.yaml").is_file()
    made(*run, "--bpe_train_text", "x")
    with pytest.raises(ConfigError, match="--lm_train_text 'x y' must be"):
        made(*run, "--lm_train_text", "x y")


def test_token_lists_of_unknown_origin(in_folder):
    Path("data/token_list/bpe_unigram30").mkdir(parents=True)
    Path("data/token_list/bpe_unigram30/tokens.txt").touch()
    message = "bpe_unigram30 has files, but no recipe.yaml .*--lang.*--skip_stages 5"
    with pytest.raises(ConfigError, match=message):
        made("--stop_stage", "5")
    made("--stop_stage", "5", "--skip_stages", "5")


def test_statistics_that_the_user_names(in_folder):
    made(*RUN)
    named = ("--asr_stats_dir", "exp/mine", "--skip_stages", "5", "--use_lm", "false")
    made(*RUN, "--fs", "8k", *named)


def test_another_speed_has_other_statistics(in_folder):
    made("--train_set", "a", "--use_lm", "false")
    made("--train_set", "a", "--use_lm", "false", "--speed_perturb_factors", "0.9 1.1")
    assert Path("exp/asr_stats_raw_bpe30/recipe.yaml").is_file()
    assert Path("exp/asr_stats_raw_bpe30_sp/recipe.yaml").is_file()


def test_statistics_are_those_of_one_front_end(in_folder):
    """A model that has been trained with other ones could not even be opened."""
    made(*RUN, frontend_conf={"n_mels": 80}, max_epoch=1)
    record = Path("exp/asr_stats_raw_en_bpe50/recipe.yaml")
    before = record.read_text()
    made(*RUN, frontend_conf={"n_mels": 80}, max_epoch=2)
    assert record.read_text() == before
    message = "front-end '.*40.*' must be '.*80.*', with which exp/asr_stats.*_stats_d"
    with pytest.raises(ConfigError, match=message):
        made(*RUN, frontend_conf={"n_mels": 40})
    for words in ("--frontend_conf n_mels=40", "--frontend=s3prl"):
        with pytest.raises(ConfigError, match="front-end '.*' must be "):
            made(*RUN, "--asr_args", words, frontend_conf={"n_mels": 80})
    assert record.read_text() == before
    # As version 0.1 has written it
    given = yaml.safe_load(before)
    del given["front-end"]
    record.write_text(yaml.safe_dump(given))
    made(*RUN, frontend_conf={"n_mels": 40})
