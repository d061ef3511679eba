"""A whole recipe on an ESPnet tree whose `asr.sh` writes what the real one would."""

import re
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from conftest import build, fix_masks, model_config
from experiment import language_model

from espnet_dynsize.bin.main import main
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.members import Member
from espnet_dynsize.recipe.options import choose_sizes

MODEL = "valid.loss.ave.pth"
# Notes its arguments; "trains" by copying, and "decodes" every reference as it is
ASR_SH = """#!/usr/bin/env bash
set -eu
stage=1
echo "$@" >> calls.txt
while [ $# -gt 0 ]; do declare "${1#--}"="$2"; shift 2; done
if [ "${fail:-}" = "${stage}" ]; then echo "it failed" 1>&2; exit 3; fi
if [ "${stage}" -le 7 ] && [ "${use_lm}" = true ]; then
    mkdir -p "${lm_exp}"
    cp ../lm/* "${lm_exp}"
fi
if [ "${stage}" -le 11 ]; then mkdir -p "${asr_exp}"; cp ../trained/* "${asr_exp}"; fi
[ "${stop_stage}" -lt 12 ] && exit 0
[ "${eval_valid_set:-}" = true ] && test_sets="${test_sets/ dev/} org/dev"
for name in ${test_sets}; do
    folder=${asr_exp}/decode_x/${name}
    data=dump/raw/${name}
    if [ "${stage}" -le 12 ]; then
        mkdir -p "${folder}"
        cp "${data}/text" "${folder}/text"
    fi
    [ "${stop_stage}" -lt 13 ] && continue
    for kind in wer cer; do
        mkdir -p "${folder}/score_${kind}"
        for side in ref hyp; do
            awk '{ id=$1; $1=""; print $0 " (s-" id ")" }' "${data}/text" \\
                > "${folder}/score_${kind}/${side}.trn"
        done
        echo "|  Sum/Avg  |  2  3 | 100.0  0.0  0.0  0.0  0.0  0.0 |" \\
            > "${folder}/score_${kind}/result.txt"
    done
done
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """The folder of a recipe; the supernet that it trains is in `trained/`."""
    template = tmp_path / "espnet" / "egs2" / "TEMPLATE" / "asr1"
    for name in ("scripts", "pyscripts", "utils", "steps"):
        (template / name).mkdir(parents=True)
    (template / "asr.sh").write_text(ASR_SH)
    (template / "asr.sh").chmod(0o755)
    monkeypatch.setenv("ESPNET_ROOT", str(tmp_path / "espnet"))
    config = model_config()
    write_supernet(tmp_path / "trained", config, seed=0)
    language_model(tmp_path / "lm")
    folder = tmp_path / "asr1"
    for name in ("test", "other", "org/dev"):
        (folder / "dump" / "raw" / name).mkdir(parents=True)
        (folder / "dump" / "raw" / name / "text").write_text("u1 A B\nu2 C\n")
    (folder / "train.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(folder)
    return folder


def write_supernet(folder, config, seed):
    torch.manual_seed(seed)
    model = build(config)
    fix_masks(model.schedule)
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save(model.state_dict(), folder / MODEL)


def run(*more) -> int:
    Path("calls.txt").write_text("")
    return main(
        ["recipe", "--asr_config", "train.yaml", "--asr_tag", "x", "--test_sets"]
        + ["test other", "--inference_asr_model", MODEL, "--use_lm", "false", *more]
    )


def calls() -> list[dict]:
    """The options of every call of asr.sh."""
    lines = Path("calls.txt").read_text().splitlines()
    return [dict(re.findall(r"--(\S+) (.*?)(?= --|$)", line)) for line in lines]


def stages() -> list[tuple]:
    return [
        (c["asr_exp"].removeprefix("exp/asr_x"), c.get("stage", "1"), c["stop_stage"])
        for c in calls()
    ]


def test_the_whole_family(recipe):
    assert run("--stage", "3", "--skip_packing", "false", "--nj", "7") == 0
    assert stages() == [
        ("", "3", "11"),
        *[(f"_size{size}", "12", "13") for size in (3, 5, 8)],
    ]
    assert all(c["nj"] == "7" and "sizes" not in c for c in calls())
    assert calls()[0]["python"] == "espnet-dynsize run"
    results = (recipe / "exp/asr_x/RESULTS.md").read_text()
    for size in (3, 5, 8):
        for name in ("test", "other"):
            row = f"|size{size}/decode_x/{name}|2|3|100.0|0.0|0.0|0.0|0.0|0.0|"
            assert results.count(row) == 2  # words and characters
        packed = f"exp/asr_x_size{size}/asr_x_size{size}_valid.loss.ave.zip"
        names = zipfile.ZipFile(recipe / packed).namelist()
        assert {"meta.yaml", "README.md"} < set(names)
    assert (recipe / "exp/asr_x/family/layers.png").exists()
    assert (recipe / "exp/asr_x/config_size3.yaml").exists()


def test_a_rerun_does_only_what_changed(recipe, capsys):
    assert run() == 0
    assert run("--stage", "12") == 0
    assert stages() == [] and "decoded and scored before" in capsys.readouterr().out
    (recipe / "dump/raw/other/text").write_text("u1 A B\nu2 D\n")
    assert run("--stage", "12") == 0
    assert len(stages()) == 3
    config = yaml.safe_load((recipe / "train.yaml").read_text())
    write_supernet(recipe.parent / "trained", config, seed=1)
    assert run("--stage", "11") == 0
    assert len(stages()) == 4
    assert (recipe / "exp/old1_asr_x_size3").is_dir()
    assert run("--stage", "13") == 0  # asked for
    assert stages() == [(f"_size{size}", "13", "13") for size in (3, 5, 8)]


def test_folders_are_named_after_the_configs(recipe, capsys):
    options = ("--asr_tag", "", "--lm_config", "conf/lm.yaml", "--use_lm", "true")
    assert run(*options, "--sizes", "3", "--skip_packing", "false") == 0
    assert [call["asr_exp"] for call in calls()] == [
        *("exp/asr_train", "exp/asr_train_size3")
    ]
    assert {call["lm_exp"] for call in calls()} == {"exp/lm_lm"}
    packed = recipe / "exp/asr_train_size3/asr_train_size3_valid.loss.ave.zip"
    names = zipfile.ZipFile(packed).namelist()
    assert {"lm/lm_lm/config.yaml", "lm/lm_lm/valid.loss.ave.pth"} < set(names)
    for name, value in (("asr_args", "--max_epoch 3"), ("lm_args", "--max_epoch 3")):
        assert run(*options, f"--{name}", value) == 2
        assert f"--{name} '{value}' must be ''" in capsys.readouterr().err
        assert calls() == []
    assert run(*options, "--sizes", "3", "--stage", "12") == 0
    assert calls() == []


def test_a_new_language_model_is_decoded_with(recipe):
    options = ("--use_lm", "true", "--lm_tag", "y", "--sizes", "3")
    assert run(*options) == 0
    assert run(*options, "--stage", "12") == 0
    assert stages() == []
    (recipe / "exp/lm_other").mkdir()
    (recipe / "exp/lm_other/valid.loss.ave.pth").touch()  # not the one in use
    assert run(*options, "--stage", "12") == 0
    assert stages() == []
    (recipe / "exp/lm_y/1epoch.pth").touch()
    assert run(*options, "--stage", "12") == 0
    assert stages() == [("_size3", "12", "13")]


def test_new_ngrams_are_decoded_with(recipe):
    options = ("--use_ngram", "true", "--sizes", "3")
    assert run(*options) == 0
    assert run(*options, "--stage", "12") == 0
    assert stages() == []
    (recipe / "exp/ngram").mkdir()
    (recipe / "exp/ngram/3gram.bin").touch()
    assert run(*options, "--stage", "12") == 0
    assert stages() == [("_size3", "12", "13")]


def test_one_size_only(recipe):
    assert run("--sizes", "5") == 0
    assert stages()[1:] == [("_size5", "12", "13")]
    assert not (recipe / "exp/asr_x_size3").exists()


def test_training_only(recipe):
    assert run("--stop_stage", "11") == 0
    assert stages() == [("", "1", "11")]


@pytest.mark.parametrize("skip", ["skip_eval", "skip_train"])
def test_skipping(recipe, skip):
    assert run() == 0
    assert run(f"--{skip}", "true", "--stage", "10") == 0
    assert calls()[0][skip] == "true"


@pytest.mark.parametrize(
    "skip, left",
    [
        ("12", [("13", "13")]),
        ("13 15", [("12", "12")]),
        ("12 13", []),
        ("12 13 14", []),
    ],
)
def test_skipped_stages_of_every_size(recipe, skip, left):
    assert run("--sizes", "3") == 0
    (recipe / "exp/asr_x/RESULTS.md").unlink()
    more = ("--stage", "12", "--skip_packing", "false", "--skip_stages", skip)
    assert run("--sizes", "3", *more) == 0
    assert stages() == [("_size3", *each) for each in left]
    assert all(call["skip_stages"] == f"{skip} " for call in calls())
    packed = recipe / "exp/asr_x_size3/asr_x_size3_valid.loss.ave.zip"
    assert packed.exists() == ("14" not in skip.split())
    reported = (recipe / "exp/asr_x/RESULTS.md").exists()
    assert reported == ("13" not in skip.split())


def test_a_skipped_scoring_is_not_taken_for_done(recipe):
    assert run("--sizes", "3", "--skip_stages", "13") == 0
    assert run("--sizes", "3", "--stage", "12") == 0
    assert stages() == [("_size3", "12", "13")]


def test_a_config_without_a_family_is_left_to_asr_sh(recipe):
    conf = {"encoder": "conformer", "encoder_conf": {"num_blocks": 2}}
    (recipe / "train.yaml").write_text(yaml.safe_dump(conf))
    assert run("--stage", "12", "--stop_stage", "13", "--asr_exp", "exp/c") == 0
    (call,) = calls()
    assert (call["stage"], call["stop_stage"]) == ("12", "13")
    assert call["asr_exp"] == "exp/c"
    assert run("--stage", "12", "--stop_stage", "13", "--asr_tag", "") == 0
    assert calls()[0]["asr_exp"] == "exp/asr_train"


@pytest.mark.parametrize(
    "options, message",
    [
        (["--sizes", "4"], r"--sizes 4: 4 is not one of \[3, 5, 8\]"),
        (["--stage", "12"], r"exp/asr_x has no valid.loss.ave.pth: train first"),
        (["--asr_config", "none.yaml"], r"--asr_config none.yaml must be an existing"),
        (["--fail", "1"], r"asr.sh failed with exit code 3"),
        (["--fail", "12"], r"asr.sh failed with exit code 3"),
        (["--test_sets", ""], r"--test_sets must name"),
        (["--skip_upload_hf", "false"], r"--skip_upload_hf false needs --hf_repo"),
        (
            ["--skip_upload_hf", "false", "--hf_repo", "a b/!"],
            "hf_repo=a b/! must be USER/NAME of letters",
        ),
        (
            ["--skip_upload_hf", "false", "--hf_repo", "name"],
            "hf_repo=name must be USER/NAME of letters",
        ),
        (["--use_streaming", "true"], r"--use_streaming true needs an encoder that st"),
        (
            ["--skip_stages", "12,13"],
            r"--skip_stages '12,13' must be numbers of stages",
        ),
        (["--stage", "12", "--stop_stage", "11"], r"--stage 12 must be at most"),
        (
            ["--use_lm", "true", "--inference_args", "--lm_weight 0"],
            r"--use_lm true: lm_weight of decoding must not be 0",
        ),
    ],
)
def test_bad_options(recipe, capsys, options, message):
    assert run(*options) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (recipe / "exp/asr_x/RESULTS.md").exists()


def test_a_misspelt_option_before_any_work(recipe, capsys):
    known = ["asr_config", "asr_tag", "asr_exp", "inference_asr_model", "test_sets"]
    lines = "\n".join(f"{name}=" for name in known)
    script = recipe.parent / "espnet/egs2/TEMPLATE/asr1/asr.sh"
    head = f"{lines}\nuse_lm=true\npython=python3\n. utils/parse_options.sh\n"
    script.write_text(ASR_SH.replace("set -eu\n", f"set -eu\n{head}"))
    assert run("--tests_sets", "other") == 2
    error = capsys.readouterr().err
    assert f"--tests_sets other must be an option of {script}: did you" in error
    assert "--test_sets?" in error and calls() == []


def test_no_espnet(recipe, monkeypatch, capsys):
    monkeypatch.setenv("ESPNET_ROOT", "/nowhere")
    assert run() == 2
    error = capsys.readouterr().err
    assert "set ESPNET_ROOT to an ESPnet checkout (that of the installed" in error


def test_the_default_tree_is_the_one_around_the_recipe(recipe, monkeypatch):
    from espnet_dynsize.recipe.tree import link_tree

    monkeypatch.delenv("ESPNET_ROOT")
    inside = recipe.parent / "espnet" / "egs2" / "mine" / "asr1"
    inside.mkdir(parents=True)
    link_tree(inside)
    template = recipe.parent / "espnet/egs2/TEMPLATE/asr1"
    assert (inside / "asr.sh").resolve() == template / "asr.sh"


def test_a_recipe_without_a_conf_folder(tmp_path, monkeypatch):
    from espnet_dynsize.recipe.tree import NAMES, OPTIONAL, link_tree

    template = tmp_path / "espnet/egs2/TEMPLATE/asr1"
    (template / "conf").mkdir(parents=True)
    for name in (*NAMES, *OPTIONAL):
        (template / name).touch()
    monkeypatch.setenv("ESPNET_ROOT", str(tmp_path / "espnet"))
    (tmp_path / "mine").mkdir()
    link_tree(tmp_path / "mine")
    links = [tmp_path / "mine" / name for name in OPTIONAL]
    assert all(link.exists() for link in links)


def test_links_follow_the_tree(recipe, tmp_path):
    from espnet_dynsize.recipe.tree import link_tree

    own = tmp_path / "steps"
    own.mkdir()
    (recipe / "steps").symlink_to(own)
    link_tree(recipe)
    (tmp_path / "espnet").rename(tmp_path / "newer")
    shutil.copytree(tmp_path / "newer", tmp_path / "espnet")
    for name in ("asr.sh", "utils"):  # links into another tree
        (recipe / name).unlink()
        (recipe / name).symlink_to(tmp_path / "newer/egs2/TEMPLATE/asr1" / name)
    link_tree(recipe)
    for name in ("asr.sh", "utils"):
        target = tmp_path / "espnet/egs2/TEMPLATE/asr1" / name
        assert (recipe / name).resolve() == target
    assert (recipe / "steps").resolve() == own


@pytest.mark.parametrize(
    "options",
    [
        ("--eval_valid_set", "true"),
        ("--eval_valid_set", "true", "--test_sets", "test other dev"),
    ],
)
def test_the_validation_set_is_reported_as_asr_sh_decodes_it(recipe, options):
    assert run(*options, "--valid_set", "dev", "--sizes", "3") == 0
    results = (recipe / "exp/asr_x/RESULTS.md").read_text()
    assert "|size3/decode_x/org/dev|2|3|" in results
    assert "|size3/decode_x/test|2|3|" in results


def test_sizes_with_commas():
    family = [Member(3), Member(5), Member(8)]
    assert choose_sizes("3,8", family) == [Member(3), Member(8)]
    with pytest.raises(ConfigError, match="x is not one of .3, 5, 8"):
        choose_sizes("x", family)


def test_a_failed_decoding_is_not_taken_for_done(recipe):
    assert run("--stop_stage", "11") == 0
    assert run("--stage", "12", "--fail", "12") == 2
    assert not (recipe / "exp/asr_x_size3/decoded.yaml").exists()
    assert run("--stage", "12") == 0
    assert len(stages()) == 3


def test_uploading(recipe, monkeypatch):
    uploaded = []

    class FolderHub:
        def create_repo(self, repo_id, exist_ok):
            assert exist_ok

        def upload_folder(self, repo_id, folder_path, commit_message):
            files = [p.name for p in Path(folder_path).rglob("*") if p.is_file()]
            uploaded.append((repo_id, sorted(files)))

    monkeypatch.setattr("huggingface_hub.HfApi", FolderHub)
    options = ("--skip_packing", "false", "--skip_upload_hf", "false")
    assert run(*options, "--hf_repo", "me/an4", "--sizes", "3 8") == 0
    assert [name for name, _ in uploaded] == ["me/an4_size3", "me/an4_size8"]
    assert {"meta.yaml", "README.md", "config.yaml", MODEL} <= set(uploaded[0][1])


def test_a_user_s_results_are_found_out_before_decoding(recipe, capsys):
    assert run("--sizes", "3") == 0
    (recipe / "exp/asr_x/RESULTS.md").write_text("mine")
    assert run("--sizes", "3", "--stage", "12") == 2
    assert "RESULTS.md was not written by espnet-dynsize" in capsys.readouterr().err
    assert (recipe / "exp/asr_x/RESULTS.md").read_text() == "mine"


@pytest.mark.parametrize("text", ["", "- 1\n"])
def test_a_damaged_record_of_decoding(recipe, capsys, text):
    assert run("--sizes", "3") == 0
    (recipe / "exp/asr_x_size3/decoded.yaml").write_text(text)
    assert run("--sizes", "3", "--stage", "12") == 2
    said = capsys.readouterr().err
    assert "exp/asr_x_size3/decoded.yaml must have keys and values" in said


@pytest.mark.parametrize(
    "options, message",
    [
        ((), "selector=simple_topk must be one of"),
        (
            ("--asr_args", "--model_conf selector=first --max_epoch x"),
            "--max_epoch: in",
        ),
    ],
)
def test_a_training_that_cannot_be_is_found_out_at_stage_1(
    recipe, capsys, options, message
):
    (recipe / "train.yaml").write_text(
        yaml.safe_dump(model_config(selector="simple_topk"))
    )
    assert run(*options) == 2
    assert message in capsys.readouterr().err
    assert calls() == [] and not (recipe / "exp").exists()


def test_a_training_may_start_from_parts_of_a_model(recipe, capsys):
    parts = [f"../trained/{MODEL}:{part}:{part}" for part in ("encoder", "ctc")]
    both = ("--pretrained_model", " ".join(parts), "--stop_stage", "11")
    assert run(*both) == 0
    assert calls()[0]["pretrained_model"] == both[1]
    shutil.rmtree(recipe / "exp")
    assert run("--pretrained_model", f"{parts[0]} nowhere.pth:ctc:ctc") == 2
    assert "nowhere.pth" in capsys.readouterr().err
