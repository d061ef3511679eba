"""Runs that are killed, and go on or are refused."""

import shutil
import subprocess
import sys

import pytest
import torch
from espnet2.tasks.abs_task import AbsTask
from training import (
    Killed,
    assert_same,
    run,
    train,
    train_arguments,
    until,
)

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy.extract import extract
from espnet_dynsize.train.model import DynSizeASRModel
from espnet_dynsize.train.task import DynSizeASRTask


# Four updates an epoch, six of search: epoch 1 is search, epoch 2 has the boundary.
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resumed_equals_uninterrupted(data, tmp_path, uninterrupted, stop, monkeypatch):
    exp = tmp_path / "resumed"
    forward = DynSizeASRModel.forward

    def until_stop(model, *args, **kwargs):
        if model.training and model.schedule.update > 4 * stop + 2:
            raise Killed  # in the middle of an epoch, whose work is lost
        return forward(model, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(DynSizeASRModel, "forward", until_stop)
        train(data, exp, 5)
    assert_same(train(data, exp, 5)["model"], uninterrupted[1]["model"])
    for name in ("valid.loss.ave_2best.pth", "valid.loss.best.pth"):
        ours, theirs = (torch.load(e / name) for e in (exp, uninterrupted[0]))
        assert_same(ours, theirs)


SEARCHES = {"search_updates": 6}
OTHERS = {
    "iterative_zero_out": {
        "selector": "iterative_zero_out",
        "selector_conf": {**SEARCHES, "iterations": 2, "initial_score": 1.0},
    },
    "components": {
        "selector": "ortho_softmax",
        "selector_conf": SEARCHES,
        "granularity": "component",
        "sizes": None,
        "budgets": {"params": [0.5, 0.7, 1]},
    },
    "random": {"selector": "random", "selector_conf": SEARCHES},
    "batch_norm": {"selector_conf": SEARCHES, "conv_norm": "batch_norm"},
}


@pytest.mark.parametrize("changes", OTHERS.values(), ids=OTHERS)
def test_other_families_train_and_resume(data, tmp_path, changes):
    whole = train(data, tmp_path / "whole", 4, **changes)["model"]
    train(data, tmp_path / "parts", 2, **changes)
    assert_same(train(data, tmp_path / "parts", 4, **changes)["model"], whole)
    masks = whole["schedule.selection.fixed_masks"]
    assert not masks.isnan().any() and masks[-1].all()
    extracted = extract(tmp_path / "whole", "valid.loss.ave.pth", [])
    assert len(extracted) == 3


def test_a_kill_while_the_checkpoint_is_written_loses_one_epoch(
    data, tmp_path, uninterrupted
):
    exp = tmp_path / "cut"
    train(data, exp, 4)
    checkpoint = exp / "checkpoint.pth"
    checkpoint.write_bytes(checkpoint.read_bytes()[:3000])
    assert_same(train(data, exp, 5)["model"], uninterrupted[1]["model"])


def test_a_kill_before_the_epoch_s_model_is_written(data, tmp_path, uninterrupted):
    exp = tmp_path / "cut"
    train(data, exp, 4)
    (exp / "4epoch.pth").write_bytes(b"PK")
    (exp / "latest.pth").unlink()
    train(data, exp, 5)
    ours, theirs = (
        torch.load(e / "valid.loss.ave.pth") for e in (exp, uninterrupted[0])
    )
    assert_same(ours, theirs)


def test_a_kill_after_the_last_epoch(data, tmp_path, uninterrupted):
    exp = tmp_path / "cut"
    train(data, exp, 5)
    for name in ("latest.pth", "valid.loss.best.pth", "valid.loss.ave.pth"):
        (exp / name).unlink()
    (exp / "5epoch.pth").unlink()
    train(data, exp, 5)
    for name in ("latest.pth", "valid.loss.best.pth", "valid.loss.ave.pth"):
        ours, theirs = (torch.load(e / name) for e in (exp, uninterrupted[0]))
        assert_same(ours, theirs)


@pytest.mark.parametrize("content", [b"PK", None])
def test_epochs_without_a_checkpoint_are_not_overwritten(data, tmp_path, content):
    exp = tmp_path / "cut"
    exp.mkdir()
    (exp / "config.yaml").write_text("old")
    (exp / "3epoch.pth").write_bytes(b"model")
    if content is not None:
        (exp / "checkpoint.pth").write_bytes(content)
    message = "checkpoint.pth .*, nor is there a .*, but there is 3epoch.pth: use"
    with pytest.raises(ConfigError, match=message):
        train(data, exp, 2)
    assert (exp / "3epoch.pth").read_bytes() == b"model"
    assert (exp / "config.yaml").read_text() == "old"


def test_a_kill_in_the_first_checkpoint_s_writing(data, tmp_path, uninterrupted):
    exp = tmp_path / "first"
    exp.mkdir()
    (exp / "checkpoint.pth").write_bytes(b"PK")
    assert_same(train(data, exp, 5)["model"], uninterrupted[1]["model"])


def test_a_lost_checkpoint_is_the_one_before_it(data, tmp_path, uninterrupted):
    exp = tmp_path / "lost"
    train(data, exp, 3)
    (exp / "checkpoint.pth").unlink()
    assert_same(train(data, exp, 5)["model"], uninterrupted[1]["model"])


def test_another_run_is_refused_before_its_config_is_replaced(data, tmp_path):
    exp = tmp_path / "run"
    train(data, exp, 2)
    before = (exp / "config.yaml").read_text()
    others = [
        ({"sizes": [4, 6, 8]}, "another sizes than"),
        (
            {"selector": "uniform", "selector_conf": {}},
            "another selector than",
        ),
        ({"selector_conf": {"search_updates": 7}}, "another selector_conf"),
    ]
    for changes, message in others:
        with pytest.raises(ConfigError, match=message):
            train(data, exp, 4, **changes)
        assert (exp / "config.yaml").read_text() == before
    # Found out later: by the length of the run, and by the optimiser
    for options, message in (
        (["--max_epoch=1"], "search_updates=6 must be less than the run's 4 updates"),
        (["--optim=sgd"], "resume: optim=sgd must be adam, with which the run in .* b"),
        (["--optim=adamw"], "resume: optim=adamw must be adam"),
        (["--optim_conf", "lr=0.5"], "resume: optim_conf={'lr': 0.5} must be {'lr': "),
        (["--scheduler=warmuplr"], "resume: scheduler=warmuplr must be None"),
        (
            ["--resume=false"],
            "begin anew in .*, with resume=False, and overwrite 2epoch.pth: resume, u",
        ),
    ):
        arguments = train_arguments(data, exp, ["--max_epoch=4"])
        with pytest.raises(ConfigError, match=message):
            DynSizeASRTask.main(cmd=arguments + options)
        assert (exp / "config.yaml").read_text() == before
    train(data, exp, 4)


def test_patience_and_a_kill_while_searching(data, tmp_path, monkeypatch):
    """ESPnet asks for patience before the first epoch of a resumed run."""
    exp, conf = tmp_path / "exp", {"search_updates": 14}
    options = ["--max_epoch=6", "--patience=0"]
    options += ["--early_stopping_criterion", "valid", "loss", "min"]
    # Nothing improves: the first epoch stays the best one.
    options += ["--optim_conf", "lr=0.0"]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(DynSizeASRModel, "forward", until(10))
        run(data, exp, *options, selector_conf=conf)
    states = run(data, exp, *options, selector_conf=conf)["model"]
    assert not states["schedule.selection.fixed_masks"].isnan().any()
    assert (exp / "valid.loss.ave.pth").exists()


def test_a_resumed_run_that_ends_in_the_search(data, tmp_path, monkeypatch):
    exp, conf = tmp_path / "exp", {"search_updates": None, "search_fraction": 0.5}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(DynSizeASRModel, "forward", until(10))
        run(data, exp, "--max_epoch=12", selector_conf=conf)
    with pytest.raises(ConfigError, match="max_epoch=4 gives 16 updates, but the fam"):
        run(data, exp, "--max_epoch=4", selector_conf=conf)


def test_resuming_another_shape(data, tmp_path):
    train(data, tmp_path / "exp", 2)
    with pytest.raises(ConfigError, match="resume: .*checkpoint.pth cannot go on"):
        train(data, tmp_path / "exp", 3, linear_units=10)


@pytest.mark.parametrize(
    "options",
    [
        ["--best_model_criterion=valid,cer_ctc,min"],
        ["--patience=9", "--early_stopping_criterion", "valid", "cer_ctc", "min"],
    ],
)
def test_a_criterion_that_the_search_has_not_hidden(data, tmp_path, options):
    exp = tmp_path / "exp"
    train(data, exp, 2)
    message = r"early_stopping_criterion \[valid, cer_ctc\] must be one with which"
    with pytest.raises(ConfigError, match=message):
        run(data, exp, "--max_epoch=3", *options)
    if options[0] == "--patience=9":  # a criterion that stops nothing may be any
        run(data, exp, "--max_epoch=3", *options[1:])


def test_a_plateau_scheduler_goes_on(data, tmp_path):
    """It has one key more after its first step."""
    options = ["--scheduler=reducelronplateau", "--val_scheduler_criterion"]
    options += ["valid", "loss"]
    exp = tmp_path / "exp"
    run(data, exp, "--max_epoch=2", *options)
    states = run(data, exp, "--max_epoch=3", *options)
    assert states["schedulers"][0]["last_epoch"] == 3


def test_a_resumed_run_says_what_its_epochs_give(data, tmp_path):
    """ESPnet begins its log after the checks, which have warned by then."""
    exp = tmp_path / "exp"
    train(data, exp, 2)
    command = [sys.executable, "-m", "espnet_dynsize.bin.main", "run", "-m"]
    command += ["espnet2.bin.asr_train", *train_arguments(data, exp, ["--max_epoch=3"])]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0
    assert "INFO: 3epoch results" in ended.stderr


def test_a_default_that_is_written_out(data, tmp_path):
    exp = tmp_path / "exp"
    train(data, exp, 2)
    extra = ["--max_epoch=3", "--optim_conf", "betas=[0.9, 0.999]"]
    assert run(data, exp, *extra)["model"]["schedule.update"] == 12


def test_epochs_of_an_older_version_are_averaged_with_new_ones(data, tmp_path):
    """Version 0.1 kept the schedule in the encoder, and no identity."""
    exp = tmp_path / "exp"
    train(data, exp, 3)
    for path in (exp / "checkpoint.pth", *exp.glob("[0-9]epoch.pth")):
        content = torch.load(path, weights_only=False)
        states = content.get("model", content)
        del states["schedule.identity"]
        for name in [name for name in states if name.startswith("schedule.")]:
            old = name.replace("schedule.selection.", "schedule.")
            states[f"encoder.{old}"] = states.pop(name)
        torch.save(content, path)
    states = train(data, exp, 4)["model"]
    averaged = torch.load(exp / "valid.loss.ave.pth")
    assert averaged.keys() == states.keys()


@pytest.mark.parametrize(
    "options, message",
    [
        (["--resume=false"], "begin anew in .* with resume=False"),
        (["--model_conf", "sizes=[4,5,8]"], "cannot go on with this config: .*sizes"),
        ([], None),
    ],
    ids=str,
)
def test_every_rank_refuses(
    data, tmp_path, uninterrupted, options, message, monkeypatch
):
    """Ranks that were started by hand would wait for the first one."""
    exp = tmp_path / "exp"
    shutil.copytree(uninterrupted[0], exp, symlinks=True)
    reached = []
    monkeypatch.setattr(AbsTask, "main_worker", reached.append)
    rank = ["--dist_world_size=2", "--dist_rank=1", "--dist_master_port=1"]
    rank += ["--dist_master_addr=localhost"]
    arguments = train_arguments(data, exp, ["--max_epoch=6", *options])
    args = DynSizeASRTask.get_parser().parse_args([*arguments, *rank])
    args.distributed = True
    if message is None:
        DynSizeASRTask.main_worker(args)
        # What is broken is the first one's.
        (exp / "checkpoint.pth").write_bytes(b"PK")
        DynSizeASRTask.main_worker(args)
        assert len(reached) == 2
        assert (exp / "checkpoint.pth").read_bytes() == b"PK"
    else:
        with pytest.raises(ConfigError, match=message):
            DynSizeASRTask.main_worker(args)
        assert reached == []
    assert not (exp / "checkpoint.unreadable.pth").exists()


def test_weights_that_are_not_numbers_do_not_go_on(data, tmp_path, uninterrupted):
    exp = tmp_path / "exp"
    shutil.copytree(uninterrupted[0], exp, symlinks=True)
    states = torch.load(exp / "checkpoint.pth", weights_only=True)
    states["model"]["ctc.ctc_lo.bias"].fill_(torch.nan)
    torch.save(states, exp / "checkpoint.pth")
    message = "cannot go on with this config: ctc.ctc_lo.bias holds numbers that are no"
    with pytest.raises(ConfigError, match=message):
        train(data, exp, 6)


def test_more_best_models_than_were_kept(data, tmp_path, uninterrupted):
    exp = tmp_path / "exp"
    shutil.copytree(uninterrupted[0], exp, symlinks=True)
    # Two of four epochs of the joint phase have been kept.
    message = "resume: keep_nbest_models=4 must be less: .*epoch.pth has not been kept"
    with pytest.raises(ConfigError, match=message):
        run(data, exp, "--max_epoch=6", "--keep_nbest_models=4")
    run(data, exp, "--max_epoch=6", "--keep_nbest_models=1")
