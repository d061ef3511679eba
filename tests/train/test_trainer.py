import math
import subprocess
import sys

import pytest
import torch
import yaml
from espnet2.train.reporter import Reporter
from training import train_arguments, write_data

import espnet_dynsize
from espnet_dynsize.control.selection import Selection
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.lock import locked
from espnet_dynsize.deploy.extract import extract
from espnet_dynsize.train.model import DynSizeASRModel
from espnet_dynsize.train.task import DynSizeASRTask


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def train(data, exp, epochs, **changes):
    espnet_dynsize.register()
    arguments = train_arguments(data, exp, [f"--max_epoch={epochs}"], **changes)
    DynSizeASRTask.main(cmd=arguments)
    return torch.load(exp / "checkpoint.pth", weights_only=False)


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name].nan_to_num(-1), theirs[name].nan_to_num(-1)), name


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    exp = tmp_path_factory.mktemp("exp") / "whole"
    return exp, train(data, exp, 5)


class Killed(Exception):
    pass


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
    "random": {"selector": "random", "selector_conf": {}},
    "norm_per_size": {"selector_conf": SEARCHES, "norm_per_size": True},
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
    train(data, exp, 2, output_per_size=False)
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
            train(data, exp, 4, **{"output_per_size": False, **changes})
        assert (exp / "config.yaml").read_text() == before
    # Found out later: by the length of the run, and by the optimiser
    for options, message in (
        (["--max_epoch=1"], "search_updates=6 must be less than the run's 4 updates"),
        (["--optim=sgd"], "resume: optim=sgd must be adam, with which the run in .* b"),
        (["--optim=adamw"], "resume: optim=adamw must be adam"),
        (["--optim_conf", "lr=0.5"], "resume: optim_conf={'lr': 0.5} must be {'lr': "),
        (["--scheduler=warmuplr"], "resume: scheduler=warmuplr must be None"),
        (["--resume=false"], "resume=False would begin anew in .* overwrite 2epoch.pt"),
    ):
        arguments = train_arguments(data, exp, ["--max_epoch=4"], output_per_size=False)
        with pytest.raises(ConfigError, match=message):
            DynSizeASRTask.main(cmd=arguments + options)
        assert (exp / "config.yaml").read_text() == before
    train(data, exp, 4, output_per_size=False)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--best_model_criterion=valid,nosuch,min"], r"\[valid, nosuch\] must be one"),
        (["--best_model_criterion=train,acc,max"], r"\[train, acc\] must be one of wh"),
        (["--best_model_criterion=vlaid,loss,min"], "must be of train or valid"),
        (["--best_model_criterion=valid,loss,mean"], "mean must be min or max"),
        (
            ["--patience=2", "--early_stopping_criterion", "valid", "nosuch", "min"],
            "early_stopping_criterion: .* must be one of what validation reports",
        ),
        (
            ["--scheduler=reducelronplateau", "--val_scheduler_criterion"]
            + ["valid", "nosuch"],
            "val_scheduler_criterion: .* must be one of what validation reports",
        ),
        (["--freeze_param", "encoder", "ctc"], "freeze_param=.* must be less than all"),
        (["--freeze_param", "schedule"], "must be without the schedule, whose scores"),
        (["--keep_nbest_models", "-1"], "keep_nbest_models=.* at least 1"),
        (["--patience", "-1"], "patience=-1 must be a whole number, at least 0"),
        (
            ["--token_list", "/dev/null"],
            "token_list=/dev/null must be a file with a",
        ),
        (["--token_list", "nosuch"], "token_list=nosuch must be a file with a token"),
        (["--grad_clip", "nan"], "grad_clip=nan must be above 0"),
        (["--grad_clip", "-1"], "grad_clip=-1.0 must be above 0"),
        (["--model_conf", "lsm_weight=.nan"], "lsm_weight=nan must be a number"),
        (["--optim_conf", "lr=1e-3"], "optim_conf: lr=1e-3 must be a number, not text"),
        (["--optim_conf", "lr=-1.0"], "with optim_conf=.* cannot be built: Invalid le"),
        (["--optim_conf", "beta=1"], "cannot be built: .* unexpected keyword"),
        (
            ["--scheduler=warmuplr", "--scheduler_conf", "warmup_steps=a"],
            "scheduler=warmuplr with scheduler_conf={'warmup_steps': 'a'} cannot be",
        ),
        (["--freeze_param", "encoder.encoderz"], "no encoder.encoderz is in the model"),
        (["--accum_grad", "0"], "accum_grad=0 must be a whole number, at least 1"),
        (
            ["--early_stopping_criterion", "valid", "loss", "mean"],
            "early_stopping_criterion: .*=mean must be min or max",
        ),
        (["--use_adapter=true"], "use_adapter=True must be false for a supernet"),
        (["--model_conf", "subnet=5"], "subnet=5 must be left out of a training conf"),
    ],
)
def test_refused_before_training(data, tmp_path, options, message, monkeypatch):
    def forward(model, *args, **kwargs):
        assert not model.training
        return stock_forward(model, *args, **kwargs)

    stock_forward = DynSizeASRModel.forward
    monkeypatch.setattr(DynSizeASRModel, "forward", forward)
    arguments = train_arguments(data, tmp_path / "exp", ["--max_epoch=2", *options])
    with pytest.raises(ConfigError, match=message):
        DynSizeASRTask.main(cmd=arguments)


def test_a_folder_that_cannot_be_written(data, tmp_path):
    (tmp_path / "file").write_text("")
    arguments = train_arguments(data, tmp_path / "exp", ["--max_epoch=2"])
    arguments.append(f"--output_dir={tmp_path}/file/exp")
    with pytest.raises(ConfigError, match="file/exp cannot be written into: Not a dir"):
        DynSizeASRTask.main(cmd=arguments)


def test_one_training_a_folder(data, tmp_path):
    # A lock is of an open file: the same process is refused, too.
    with (
        locked(tmp_path / "exp", "training"),
        pytest.raises(ConfigError, match="exp is in use: another process"),
    ):
        train(data, tmp_path / "exp", 1)
    assert not (tmp_path / "exp" / "config.yaml").exists()
    train(data, tmp_path / "exp", 2)


def test_schedule_after_training(uninterrupted):
    states = uninterrupted[1]["model"]
    assert states["schedule.update"] == 20
    assert states["schedule.selection.search_updates"] == 6
    assert states["schedule.joint_epochs"] == 4
    kept = states["schedule.selection.fixed_masks"].sum(dim=1)
    assert kept.tolist() == [3, 5, 8]


def test_model_selection_sees_joint_epochs_only(uninterrupted):
    exp, states = uninterrupted
    reporter = Reporter()
    reporter.load_state_dict(states["reporter"])
    values = dict(reporter.sort_epochs_and_values("valid", "loss", "min"))
    assert values[1] == math.inf
    assert all(math.isfinite(values[epoch]) for epoch in (2, 3, 4, 5))
    assert math.isfinite(reporter.stats[1]["valid"]["search_loss"])
    assert not (exp / "1epoch.pth").exists()
    averaged = torch.load(exp / "valid.loss.ave.pth")
    masks = states["model"]["schedule.selection.fixed_masks"]
    assert torch.equal(averaged["schedule.selection.fixed_masks"], masks)


def test_every_size_is_validated_in_every_epoch(uninterrupted):
    reporter = Reporter()
    reporter.load_state_dict(uninterrupted[1]["reporter"])
    for epoch in range(1, 6):
        for size in (3, 5, 8):
            for key in (f"loss_{size}", f"cer_ctc_{size}"):
                assert math.isfinite(reporter.get_value("valid", key, epoch=epoch))


def test_log_and_tensorboard_show_phase_k_and_layers(data, tmp_path, caplog):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    exp = tmp_path / "exp"
    espnet_dynsize.register()
    extra = ["--max_epoch=2", "--use_tensorboard=true"]
    with caplog.at_level("INFO"):
        DynSizeASRTask.main(cmd=train_arguments(data, exp, extra))
    assert "search phase, size 3 keeps layers [" in caplog.text
    assert "joint phase, size 8 keeps layers [0, 1, 2, 3, 4, 5, 6, 7]" in caplog.text
    events = event_accumulator.EventAccumulator(str(exp / "tensorboard" / "train"))
    events.Reload()
    tags = events.Tags()
    assert {"k", "phase", "loss_8"} <= set(tags["scalars"])
    assert "layers_3/text_summary" in tags["tensors"]
    events = event_accumulator.EventAccumulator(str(exp / "tensorboard" / "valid"))
    events.Reload()
    sizes = {f"{key}_{size}" for key in ("loss", "cer_ctc") for size in (3, 5, 8)}
    assert sizes <= set(events.Tags()["scalars"])


def test_averages_are_over_no_more_epochs_than_there_are(data, tmp_path):
    exp = tmp_path / "exp"
    train(data, exp, 2)  # one joint epoch, two to be averaged
    assert (exp / "valid.loss.ave.pth").resolve() == (exp / "2epoch.pth").resolve()


def test_search_only_so_far_selects_nothing(data, tmp_path):
    exp = tmp_path / "exp"
    espnet_dynsize.register()
    conf = {"search_updates": 11}
    train(data, exp, 3, selector_conf=conf)
    reference = torch.load(exp / "3epoch.pth")
    assert not reference["schedule.selection.fixed_masks"].isnan().any()
    assert [p.name for p in exp.glob("*epoch.pth")] == ["3epoch.pth"]


def test_early_stopping_waits_for_the_joint_phase(data, tmp_path):
    exp = tmp_path / "exp"
    espnet_dynsize.register()
    extra = ["--max_epoch=6", "--patience=0", "--early_stopping_criterion"]
    extra += ["valid", "loss", "min"]
    conf = {"search_updates": 16}
    arguments = train_arguments(data, exp, extra, selector_conf=conf)
    DynSizeASRTask.main(cmd=arguments)
    states = torch.load(exp / "checkpoint.pth", weights_only=False)["model"]
    assert states["schedule.update"] > 16


def run(data, exp, *extra, **changes):
    """Train with more options of `asr_train`; returns the checkpoint."""
    espnet_dynsize.register()
    DynSizeASRTask.main(cmd=train_arguments(data, exp, extra, **changes))
    return torch.load(exp / "checkpoint.pth", weights_only=False)


def until(update):
    """A `forward` that is killed after so many updates."""
    forward = DynSizeASRModel.forward

    def limited(model, *args, **kwargs):
        if model.training and model.schedule.now > update:
            raise Killed
        return forward(model, *args, **kwargs)

    return limited


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


def test_patience_with_another_criterion_than_the_best_model_s(data, tmp_path):
    """Search epochs count in no criterion: the loss was better while searching."""
    exp = tmp_path / "exp"
    options = ["--max_epoch=6", "--patience=1", "--best_model_criterion"]
    options += ["valid,cer_ctc,min", "--early_stopping_criterion", "valid", "loss"]
    states = run(data, exp, *options, "min", selector_conf={"search_updates": 8})
    reporter = Reporter()
    reporter.load_state_dict(states["reporter"])
    losses = dict(reporter.sort_epochs_and_values("valid", "loss", "min"))
    assert losses[1] == losses[2] == math.inf
    assert reporter.get_epoch() >= 4


@pytest.mark.parametrize("criterion", ["valid,loss,min", "valid,cer_ctc,min"])
def test_a_plateau_scheduler_sees_what_the_search_really_does(
    data, tmp_path, criterion
):
    options = ["--max_epoch=5", "--scheduler=reducelronplateau"]
    options += ["--scheduler_conf", "patience=0", "--val_scheduler_criterion"]
    options += ["valid", "loss", "--best_model_criterion", criterion]
    states = run(data, tmp_path / "exp", *options, selector_conf={"search_updates": 16})
    reporter = Reporter()
    reporter.load_state_dict(states["reporter"])
    real = [reporter.stats[e]["valid"]["search_loss"] for e in (1, 2, 3, 4)]
    assert states["schedulers"][0]["best"] <= min(real) < math.inf
    worse = sum(b >= min(real[: i + 1]) for i, b in enumerate(real[1:]))
    rate = states["optimizers"][0]["param_groups"][0]["lr"]
    assert rate >= 0.01 * 0.1 ** (worse + 1)  # cut no more often than it got worse


def test_updates_of_an_epoch_that_accum_grad_does_not_divide(
    data, tmp_path, monkeypatch
):
    """Four batches, three to an update: one update an epoch, nothing carried over."""
    whole = run(
        data,
        tmp_path / "whole",
        "--max_epoch=3",
        "--accum_grad=3",
        selector_conf={"search_updates": 1},
    )
    states = whole["model"]
    assert states["schedule.update"] == 3
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(DynSizeASRModel, "forward", until(1))
        run(
            data,
            tmp_path / "parts",
            "--max_epoch=3",
            "--accum_grad=3",
            selector_conf={"search_updates": 1},
        )
    resumed = run(
        data,
        tmp_path / "parts",
        "--max_epoch=3",
        "--accum_grad=3",
        selector_conf={"search_updates": 1},
    )
    assert_same(resumed["model"], states)


def test_an_update_of_more_batches_than_an_epoch_has(data, tmp_path):
    with pytest.raises(ConfigError, match="accum_grad=5 must be at most 4"):
        run(data, tmp_path / "exp", "--max_epoch=3", "--accum_grad=5")


def test_a_resumed_run_that_ends_in_the_search(data, tmp_path, monkeypatch):
    exp, conf = tmp_path / "exp", {"search_updates": None, "search_fraction": 0.5}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(DynSizeASRModel, "forward", until(10))
        run(data, exp, "--max_epoch=12", selector_conf=conf)
    with pytest.raises(ConfigError, match="max_epoch=4 gives 16 updates, but the sea"):
        run(data, exp, "--max_epoch=4", selector_conf=conf)


def test_a_supernet_s_weights_start_another_run(data, tmp_path, uninterrupted):
    """Weights only: masks, scores and counters are the new run's own."""
    exp = tmp_path / "exp"
    source = uninterrupted[0] / "valid.loss.ave.pth"
    states = run(
        data,
        exp,
        "--max_epoch=1",
        f"--init_param={source}",
        selector_conf={"search_updates": 3},
    )["model"]
    assert states["schedule.update"] == 4 and states["schedule.joint_epochs"] == 1
    assert states["schedule.selection.search_updates"] == 3
    scores = states["schedule.selection.selector.scores"]
    assert (scores - 0.5).abs().max() < 0.1  # three steps from where scores begin


def test_espnet_s_init_leaves_the_scores_alone(data, tmp_path):
    states = run(
        data,
        tmp_path / "exp",
        "--max_epoch=1",
        "--init=xavier_uniform",
        "--optim_conf",
        "lr=0.0",
        selector_conf={"search_updates": 3},
    )["model"]
    assert (states["schedule.selection.selector.scores"] >= 0.5).all()


def test_threads_of_one_process_are_refused(data, tmp_path):
    arguments = train_arguments(data, tmp_path / "exp", ["--max_epoch=1"])
    args = DynSizeASRTask.get_parser().parse_args(arguments)
    args.ngpu, args.distributed = 2, False
    with pytest.raises(ConfigError, match="ngpu=2 needs multiprocessing_distributed"):
        DynSizeASRTask.main_worker(args)


def test_a_size_that_decodes_is_not_for_training(data, tmp_path):
    with pytest.raises(ConfigError, match="subnet=5 must be left out of a training"):
        run(data, tmp_path / "exp", "--max_epoch=1", subnet=5)


def test_the_step_reaches_the_controllers(data, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        Selection, "after_step", lambda self, update: calls.append(update)
    )
    run(
        data,
        tmp_path / "exp",
        "--max_epoch=2",
        "--accum_grad=2",
        selector_conf={"search_updates": 2},
    )
    assert calls == [1, 2, 3, 4]


def test_weights_of_a_size_do_not_depend_on_later_extraction(uninterrupted):
    exp, states = uninterrupted
    for model in extract(exp, "valid.loss.ave.pth", []):
        own = torch.load(model.directory / "valid.loss.ave.pth")
        averaged = torch.load(exp / "valid.loss.ave.pth")
        shared = [n for n in own if n in averaged and "ctc_lo" not in n]
        assert shared and all(torch.equal(own[n], averaged[n]) for n in shared)


def test_search_longer_than_the_run(data, tmp_path):
    with pytest.raises(
        ConfigError, match="search_updates=6 must be less than the run's 4"
    ):
        train(data, tmp_path / "exp", 1)
    assert not list((tmp_path / "exp").glob("*.pth"))


def test_resuming_another_shape(data, tmp_path):
    train(data, tmp_path / "exp", 2)
    with pytest.raises(ConfigError, match="resume: .*checkpoint.pth does not fit"):
        train(data, tmp_path / "exp", 3, linear_units=10)


def test_accumulated_batches_are_one_update(data, tmp_path):
    espnet_dynsize.register()
    extra = ["--max_epoch=3", "--accum_grad=2"]
    conf = {"search_updates": 2}
    exp = tmp_path / "exp"
    DynSizeASRTask.main(cmd=train_arguments(data, exp, extra, selector_conf=conf))
    states = torch.load(exp / "checkpoint.pth", weights_only=False)["model"]
    assert states["schedule.update"] == 6


def test_scores_are_kept_out_of_weight_decay(data, tmp_path):
    exp = tmp_path / "exp"
    espnet_dynsize.register()
    extra = ["--max_epoch=2", "--optim_conf", "weight_decay=0.1"]
    DynSizeASRTask.main(cmd=train_arguments(data, exp, extra))
    groups = torch.load(exp / "checkpoint.pth", weights_only=False)["optimizers"][0]
    groups = groups["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert len(groups[1]["params"]) == 1


SCHEDULERS = {
    "warmuplr": {"warmup_steps": 10},
    "piecewiselinearwarmuplr": {
        "warmup_steps_list": [0, 10],
        "warmup_lr_list": [0.0, 0.01],
    },
}


def with_scheduler(data, exp, name):
    conf = [f"{key}={value}" for key, value in SCHEDULERS[name].items()]
    options = [a for c in conf for a in ("--scheduler_conf", c)]
    extra = ["--max_epoch=2", f"--scheduler={name}", *options]
    selector = {"search_updates": 6, "score_lr": 3.0}
    espnet_dynsize.register()
    DynSizeASRTask.main(cmd=train_arguments(data, exp, extra, selector_conf=selector))


def test_score_lr_follows_the_scheduler(data, tmp_path):
    with_scheduler(data, tmp_path / "exp", "warmuplr")
    states = torch.load(tmp_path / "exp" / "checkpoint.pth", weights_only=False)
    weights, scores = states["optimizers"][0]["param_groups"]
    assert scores["lr"] == pytest.approx(3 * weights["lr"])


def test_score_lr_is_refused_where_the_scheduler_ignores_it(data, tmp_path):
    with pytest.raises(ConfigError, match="score_lr=3.0 must be 1 with this scheduler"):
        with_scheduler(data, tmp_path / "exp", "piecewiselinearwarmuplr")
    assert not list((tmp_path / "exp").glob("*.pth"))


def test_stock_models_train_as_ever(data, tmp_path):
    exp = tmp_path / "exp"
    espnet_dynsize.register()
    arguments = train_arguments(data, exp, ["--max_epoch=1"])
    config = yaml.safe_load((tmp_path / "exp.yaml").read_text())
    config.update(encoder="conformer", model="espnet", model_conf={"ctc_weight": 1.0})
    del config["encoder_conf"]["conv_norm"]
    (tmp_path / "exp.yaml").write_text(yaml.safe_dump(config))
    DynSizeASRTask.main(cmd=arguments)
    assert (exp / "valid.loss.ave.pth").exists()


@pytest.mark.parametrize("sandwich", ["alternate", "pairs"])
def test_two_ranks_equal_one_process(data, tmp_path, sandwich):
    """Two gloo processes and one with the same global batches: 51 updates."""
    # Without dropout, as each process has its own random numbers. Adam would blow up
    # rounding where a gradient is zero (the keys' bias).
    extra = ["--max_epoch=17", "--batch_size=4", "--optim=sgd"]
    extra += ["--optim_conf", "momentum=0.9", "--model_conf", f"sandwich={sandwich}"]
    changes = dict(
        dropout_rate=0.0,
        positional_dropout_rate=0.0,
        attention_dropout_rate=0.0,
        selector_conf={"search_updates": 25},
    )
    espnet_dynsize.register()
    one = train_arguments(data, tmp_path / "one", extra, **changes)
    DynSizeASRTask.main(cmd=one)
    two = train_arguments(data, tmp_path / "two", extra, **changes)
    two += ["--dist_world_size=2", "--dist_backend=gloo"]
    two += [f"--dist_init_method=file://{tmp_path / 'rendezvous'}"]
    command = [sys.executable, "-m", "espnet_dynsize.bin.main", "run", "-m"]
    command += ["espnet2.bin.asr_train", *two]
    ranks = [
        subprocess.Popen(
            [*command, f"--dist_rank={rank}"], stderr=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    errors = [rank.communicate(timeout=240)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], (
        errors[0][-2000:] + errors[1][-2000:]
    )
    ours, theirs = (
        torch.load(tmp_path / name / "checkpoint.pth", weights_only=False)["model"]
        for name in ("one", "two")
    )
    assert ours["schedule.update"] == 51
    for name in ours:
        torch.testing.assert_close(
            ours[name], theirs[name], rtol=1e-4, atol=1e-5, equal_nan=True
        )


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", None])
def test_weights_to_start_from_must_be_readable(data, tmp_path, content, monkeypatch):
    path = tmp_path / "start.pth"
    if content is None:
        torch.save({"a": torch.tensor([1.0, math.nan])}, path)
    else:
        path.write_bytes(content)
    # At a terminal, ESPnet would ask whether to read it in an unsafe way, and wait.
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    arguments = train_arguments(data, tmp_path / "exp", [f"--init_param={path}"])
    with pytest.raises(ConfigError, match="start.pth (cannot be read|must hold fin)"):
        DynSizeASRTask.main(cmd=arguments)


@pytest.mark.parametrize(
    "criteria",
    [[], ["valid"], [["valid", "loss"]], [[1, 2, 3]], [["valid", None, "min"]]],
    ids=str,
)
def test_criteria_of_another_form(data, tmp_path, criteria):
    arguments = train_arguments(data, tmp_path / "exp")
    arguments = [a for a in arguments if not a.startswith("--best_model_criterion")]
    path = tmp_path / "exp.yaml"
    config = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(config | {"best_model_criterion": criteria}))
    with pytest.raises(ConfigError, match="best_model_criterion=.* must be a list of"):
        DynSizeASRTask.main(cmd=arguments)
