"""What is refused before any training."""

import argparse
import math

import pytest
import torch
import yaml
from training import (
    run,
    train,
    train_arguments,
    with_scheduler,
)

import espnet_dynsize
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.lock import locked
from espnet_dynsize.train.check import check_training
from espnet_dynsize.train.init_param import check_init_param, read_init_param
from espnet_dynsize.train.model import DynSizeASRModel
from espnet_dynsize.train.resume import check_config_apart
from espnet_dynsize.train.task import DynSizeASRTask


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
        (["--num_iters_per_epoch", "0"], "num_iters_per_epoch=0 must be .* at least 1"),
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
        (["--optim=lbfgs"], "optim=lbfgs must be one whose step needs no closure"),
        (
            ["--scheduler=onecyclelr", "--scheduler_conf", "total_steps=7"]
            + ["--scheduler_conf", "max_lr=0.1"],
            "scheduler_conf: total_steps=7 must be at least 8, the updates of the run",
        ),
        (
            ["--encoder_conf", "interctc_layer_idx=[5]"]
            + ["--encoder_conf", "interctc_use_conditioning=true"],
            "the model cannot be built: .*interctc_layer_idx",
        ),
        (["--encoder_conf", "attention_heads=3"], "built: assert n_feat % n_head == 0"),
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
        (["--no_forward_run=true"], "no_forward_run=True must be false for a family"),
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


@pytest.mark.parametrize("resume", ["true", "false"])
@pytest.mark.parametrize("left", ["valid.loss.ave_2best.pth", "valid.loss.best.pth"])
def test_models_without_epochs_are_not_overwritten(data, tmp_path, resume, left):
    exp = tmp_path / "exp"
    exp.mkdir()
    (exp / left).write_text("mine")
    arguments = train_arguments(data, exp, ["--max_epoch=2", f"--resume={resume}"])
    with pytest.raises(ConfigError, match=f"begin anew in .* overwrite {left}"):
        DynSizeASRTask.main(cmd=arguments)
    assert sorted(p.name for p in exp.iterdir()) == [".lock", left]


@pytest.mark.parametrize("option", ["--dry_run=true", "--collect_stats=true"])
def test_what_does_not_train_leaves_the_run_that_is_there(data, tmp_path, option):
    exp = tmp_path / "exp"
    train(data, exp, 2)
    before = {p.name: p.read_bytes() for p in exp.iterdir() if p.is_file()}
    arguments = train_arguments(
        data, exp, ["--max_epoch=2", option, "--log_interval=7"]
    )
    if "collect" in option:  # its own iterator wants audio or features, no shapes
        arguments = [a for a in arguments if "batch_type" not in a]
        arguments.append("--batch_type=unsorted")
    DynSizeASRTask.main(cmd=arguments)
    assert {p.name: p.read_bytes() for p in exp.iterdir() if p.is_file()} == before


def test_the_run_s_own_config_does_not_replace_the_user_s(data, tmp_path):
    exp = tmp_path / "exp"
    arguments = train_arguments(data, exp, ["--max_epoch=2"])
    exp.mkdir()
    mine = (tmp_path / "exp.yaml").rename(exp / "config.yaml")
    arguments = [f"--config={mine}", *arguments[1:]]
    text = mine.read_text()
    with pytest.raises(ConfigError, match="config=.*config.yaml must be outside outp"):
        DynSizeASRTask.main(cmd=arguments)
    assert mine.read_text() == text
    check_config_apart(str(tmp_path / "gone.yaml"), exp)


@pytest.mark.parametrize(
    "options",
    [
        {"optim_conf": None, "scheduler": "warmuplr", "scheduler_conf": None},
        {"scheduler": "reducelronplateau", "scheduler_conf": {"min_lr": [0.1, 0.2]}},
        {"init_param": None, "freeze_param": None},
        {"grad_clip": math.inf},
    ],
    ids=str,
)
def test_what_yaml_may_say(data, tmp_path, options):
    espnet_dynsize.register()
    arguments = train_arguments(data, tmp_path / "exp", ["--max_epoch=1"])
    args = DynSizeASRTask.get_parser().parse_args(arguments)
    check_training(argparse.Namespace(**{**vars(args), **options}))


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


def test_an_update_of_more_batches_than_an_epoch_has(data, tmp_path):
    with pytest.raises(ConfigError, match="accum_grad=5 must be at most 4"):
        run(data, tmp_path / "exp", "--max_epoch=3", "--accum_grad=5")


def test_threads_of_one_process_are_refused(data, tmp_path):
    arguments = train_arguments(data, tmp_path / "exp", ["--max_epoch=1"])
    args = DynSizeASRTask.get_parser().parse_args(arguments)
    args.ngpu, args.distributed = 2, False
    with pytest.raises(ConfigError, match="ngpu=2 needs multiprocessing_distributed"):
        DynSizeASRTask.main_worker(args)


def test_a_size_that_decodes_is_not_for_training(data, tmp_path):
    with pytest.raises(ConfigError, match="subnet=5 must be left out of a training"):
        run(data, tmp_path / "exp", "--max_epoch=1", subnet=5)


def test_search_longer_than_the_run(data, tmp_path):
    with pytest.raises(
        ConfigError, match="search_updates=6 must be less than the run's 4"
    ):
        train(data, tmp_path / "exp", 1)
    assert not list((tmp_path / "exp").glob("*.pth"))


def test_score_lr_is_refused_where_the_scheduler_ignores_it(data, tmp_path):
    with pytest.raises(ConfigError, match="score_lr=3.0 must be 1 with this scheduler"):
        with_scheduler(data, tmp_path / "exp", "piecewiselinearwarmuplr")
    assert not list((tmp_path / "exp").glob("*.pth"))


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
    with pytest.raises(ConfigError, match="start.pth (cannot be read|must be fin)"):
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


@pytest.mark.parametrize("criterion", [3, ["valid"], "min"])
def test_a_criterion_of_early_stopping_of_another_form(data, tmp_path, criterion):
    arguments = train_arguments(data, tmp_path / "exp")
    path = tmp_path / "exp.yaml"
    config = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(config | {"early_stopping_criterion": criterion}))
    with pytest.raises(ConfigError, match="early_stopping_criterion=.* must be a list"):
        DynSizeASRTask.main(cmd=arguments)


def test_weights_to_start_from_that_are_not_the_model_s(data, tmp_path):
    espnet_dynsize.register()
    arguments = train_arguments(data, tmp_path / "exp", ["--max_epoch=2"])
    args = DynSizeASRTask.get_parser().parse_args(arguments)
    model = DynSizeASRTask.build_model(args)
    states = {name: p + 1 for name, p in model.named_parameters()}
    path, odd = tmp_path / "a.pth", tmp_path / "odd.pth"
    torch.save(states, path)
    torch.save({**states, "decoder.weight": torch.ones(1)}, odd)
    torch.save({f"model.{n}": p for n, p in states.items()}, tmp_path / "lightning.pth")
    nothing = "must be weights of the model; nothing in it has a name and shape"
    for option, ignored, message in (
        (f"{path}:nosuch:encoder", False, nothing),
        (f"{path}:::ctc,encoder,schedule", True, nothing),
        (f"{path}:encoder:encoder:", True, nothing),
        (f"{tmp_path / 'lightning.pth'}", True, nothing),
        (f"{path}:encoder:nosuch.part", True, "the model has no part nosuch.part"),
        (f"{odd}", False, "does not fit .*decoder.weight.*ignore_init_mismatch: true"),
    ):
        words = [*arguments, f"--init_param={option}"]
        words.append(f"--ignore_init_mismatch={ignored}")
        with pytest.raises(ConfigError, match=f"init_param={option}.* {message}"):
            DynSizeASRTask.main(cmd=words)
        assert not (tmp_path / "exp" / "config.yaml").exists()
    for option, ignored in (
        (f"{path}", False),
        (f"{odd}", True),
        (f"{path}:encoder:encoder", False),
        (f"{path}:encoder:encoder:encoder.embed", False),
        (f"{path}:::ctc", False),
        (f"{tmp_path / 'lightning.pth'}:model", False),
    ):
        check_init_param(model, read_init_param([option]), ignored)


def test_weights_to_start_from_that_are_not_all_of_the_layers(data, tmp_path):
    """As a cut size's are; ESPnet would leave the others random, without a word."""
    espnet_dynsize.register()
    arguments = train_arguments(data, tmp_path / "exp", ["--max_epoch=2"])
    args = DynSizeASRTask.get_parser().parse_args(arguments)
    model = DynSizeASRTask.build_model(args)
    states = {
        name: p for name, p in model.named_parameters() if ".by_size." not in name
    }
    first = [name for name in states if name.startswith("encoder.encoders.0.")]
    path, rest = tmp_path / "cut.pth", tmp_path / "rest.pth"
    torch.save({n: p for n, p in states.items() if n not in first}, path)
    torch.save({n: states[n] for n in first}, rest)
    torch.save({n: p for n, p in states.items() if "encoders" not in n}, tmp_path / "o")
    message = f"must have all layers of the encoder.* no {sorted(first)[0]}. ignore"
    for option in (f"{path}", f"{path}:encoder:encoder", f"{rest}"):
        with pytest.raises(
            ConfigError, match=message if option != f"{rest}" else "all"
        ):
            check_init_param(model, read_init_param([option]), False)
    block = "encoder.encoders.0"
    for options, ignored in (
        ([f"{path}"], True),
        ([f"{path}", f"{rest}"], False),
        ([f"{rest}:{block}:{block}"], False),
        ([f"{tmp_path / 'o'}"], False),
    ):
        check_init_param(model, read_init_param(options), ignored)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"<blank>\nA\nB\nA\nC\n<sos/eos>\n", "token_list: twice in it=.'A'. must be"),
        (b"<blank>\n\xff\xfe\n<sos/eos>\n", "tokens.txt must be a file with .* UTF-8"),
    ],
)
def test_token_lists(data, tmp_path, content, message):
    (tmp_path / "tokens.txt").write_bytes(content)
    arguments = train_arguments(data, tmp_path / "exp", ["--max_epoch=2"])
    arguments.append(f"--token_list={tmp_path / 'tokens.txt'}")
    with pytest.raises(ConfigError, match=message):
        DynSizeASRTask.main(cmd=arguments)


def test_an_epoch_without_an_update(data, tmp_path):
    """Of several iterators in turn nobody knows how long they are."""
    splits = {}
    for name in ("feats.scp", "text", "shape"):
        lines = (data / name).read_text().splitlines(keepends=True)
        splits[name] = folder = tmp_path / name
        folder.mkdir()
        (folder / "num_splits").write_text("2")
        for half in (0, 1):
            (folder / f"split.{half}").write_text("".join(lines[half::2]))
    arguments = train_arguments(data, tmp_path / "exp", ["--max_epoch=3"])
    arguments = [a for a in arguments if not a.startswith("--train_")]
    arguments += [
        f"--train_data_path_and_name_and_type={splits['feats.scp']},speech,npy",
        f"--train_data_path_and_name_and_type={splits['text']},text,text_int",
        f"--train_shape_file={splits['shape']}",
        *("--multiple_iterator=true", "--accum_grad=9"),
    ]
    with pytest.raises(ConfigError, match="accum_grad=9 must be at most the batch"):
        DynSizeASRTask.main(cmd=arguments)
    assert not list((tmp_path / "exp").glob("*.pth"))


def test_a_number_has_one_mode(data, tmp_path):
    """Search epochs hide behind the worst value, the best of the other mode."""
    more = ["--best_model_criterion=valid,loss,min", "--max_epoch=2"]
    more += ["--early_stopping_criterion", "valid", "loss", "max"]
    with pytest.raises(ConfigError, match=r"'max'\] must be of one mode for each num"):
        DynSizeASRTask.main(
            cmd=train_arguments(data, tmp_path / "exp", [*more, "--patience=1"])
        )
    assert not (tmp_path / "exp" / "config.yaml").exists()
    # Without patience, nothing stops by it.
    DynSizeASRTask.main(cmd=train_arguments(data, tmp_path / "exp", more))
    best = torch.load(tmp_path / "exp" / "valid.loss.ave.pth", weights_only=True)
    assert best["schedule.selection.fixed_masks"].isfinite().all()
