"""What a training does besides the loss."""

import math
import subprocess
import sys

import pytest
import torch
import yaml
from espnet2.train.reporter import Reporter
from training import (
    Killed,
    assert_same,
    run,
    train,
    train_arguments,
    until,
    with_scheduler,
)

import espnet_dynsize
from espnet_dynsize.control.selection import Selection
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy.extract import extract
from espnet_dynsize.train import trainer
from espnet_dynsize.train.model import DynSizeASRModel
from espnet_dynsize.train.task import DynSizeASRTask


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


def test_an_epoch_whose_loss_is_no_number_is_not_chosen(data, tmp_path, monkeypatch):
    forward = DynSizeASRModel.forward

    def diverges(model, *args, **kwargs):
        loss, stats, weight = forward(model, *args, **kwargs)
        if not model.training and model.schedule.now == 12:  # epoch 3
            stats["loss"] = stats["loss"] * math.nan
        return loss, stats, weight

    monkeypatch.setattr(DynSizeASRModel, "forward", diverges)
    exp = tmp_path / "exp"
    states = train(data, exp, 3)
    # The second one alone, though two are wanted
    assert states["model"]["schedule.joint_epochs"] == 1
    assert (exp / "valid.loss.ave.pth").resolve() == (exp / "2epoch.pth").resolve()
    train(data, exp, 4)
    averaged = torch.load(exp / "valid.loss.ave_2best.pth")["ctc.ctc_lo.bias"]
    both = [torch.load(exp / f"{e}epoch.pth")["ctc.ctc_lo.bias"] for e in (2, 4)]
    assert torch.allclose(averaged, (both[0] + both[1]) / 2)
    assert not (exp / "3epoch.pth").exists()


def test_a_run_of_unknown_length_that_ends_in_the_search(data, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "_total_updates", lambda *_: None)
    conf = {"search_updates": 10}
    message = "ended after 8 updates, but its family is chosen in the first 10: no size"
    with pytest.raises(ConfigError, match=message):
        train(data, tmp_path / "exp", 2, selector_conf=conf)
    states = train(data, tmp_path / "exp", 3, selector_conf=conf)["model"]
    assert not states["schedule.selection.fixed_masks"].isnan().any()


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


def test_without_a_criterion_the_validation_loss_chooses(data, tmp_path):
    """ESPnet's four have accuracies, which a CTC model does not report."""
    arguments = train_arguments(data, tmp_path / "exp", ["--max_epoch=3"])
    left_out = [a for a in arguments if not a.startswith("--best_model_criterion")]
    assert len(left_out) == len(arguments) - 1
    espnet_dynsize.register()
    DynSizeASRTask.main(cmd=left_out)
    config = yaml.safe_load((tmp_path / "exp" / "config.yaml").read_text())
    assert config["best_model_criterion"] == [["valid", "loss", "min"]]
    assert (tmp_path / "exp" / "valid.loss.ave.pth").exists()


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


def test_the_step_reaches_the_controllers(data, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        Selection, "after_step", lambda self, update, *_: calls.append(update)
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


def test_score_lr_follows_the_scheduler(data, tmp_path):
    with_scheduler(data, tmp_path / "exp", "warmuplr")
    states = torch.load(tmp_path / "exp" / "checkpoint.pth", weights_only=False)
    weights, scores = states["optimizers"][0]["param_groups"]
    assert scores["lr"] == pytest.approx(3 * weights["lr"])


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


FAMILIES = {
    "alternate": dict(selector_conf={"search_updates": 25}),
    "mest": dict(
        sizes=None,
        selector_conf=None,
        sparsity=dict(method="mest", target=0.5, gradient_weight=0.1, stages=[0.3, 0.6])
        | dict(mutation=[0.2, 0.1], interval=0.1),
        forgetting={"drop": 0.2},
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_two_ranks_equal_one_process(data, tmp_path, family):
    """Two gloo processes and one with the same global batches: 51 updates."""
    # Without dropout, as each process has its own random numbers. Adam would blow up
    # rounding where a gradient is zero (the keys' bias).
    extra = ["--max_epoch=17", "--batch_size=4", "--optim=sgd"]
    extra += ["--optim_conf", "momentum=0.9"]
    changes = dict(
        dropout_rate=0.0,
        positional_dropout_rate=0.0,
        attention_dropout_rate=0.0,
        **FAMILIES[family],
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
