"""What is refused before a model is built or trained."""

import argparse
import importlib.util
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import torch
from espnet2.tasks.abs_task import optim_classes, scheduler_classes

from espnet_dynsize.core.errors import ConfigError, check, one_line
from espnet_dynsize.core.keys import (
    ENCODER_PREFIX,
    check_criteria,
    check_criterion,
    check_model_keys,
    has_kaldi,
    refuse_moved,
    streams,
)
from espnet_dynsize.core.schema import (
    Count,
    Range,
    check_numbers,
    check_options,
    check_value,
    is_number_as_text,
)
from espnet_dynsize.train.choices import choices_of, plain_name
from espnet_dynsize.train.streaming import check_streaming

# Arguments of ESPnet's models that are not options
_PARTS = (
    *("vocab_size", "token_list", "frontend", "specaug", "normalize", "preencoder"),
    *("encoder", "postencoder", "decoder", "ctc", "joint_network"),
)
# Options of ESPnet's trainer that would end or spoil a run in silence
_STOCK = {
    "accum_grad": Count,
    "max_epoch": Count,
    "num_iters_per_epoch": Count | None,
    "keep_nbest_models": Count | list[Count],
    "patience": Annotated[int, Range(0)] | None,
}
# Options of schedulers
_OF_GROUPS = ("min_lr", "max_lr", "base_lr", "lr_lambda")
# Others that must be off, and why
_OFF = {
    "use_deepspeed": "DeepSpeed's trainer does not advance its schedule",
    "sharded_ddp": "nobody has tried its sizes with fairscale",
    "no_forward_run": "it would go through its phases without having learned anything",
}


def check_config(config: Mapping) -> None:
    """Check the plugin's options in a training config: names, types and ranges.

    Args:
        config: A training config's keys, all or only those that differ from ESPnet's.

    Raises:
        ConfigError: one is not allowed.
    """
    for key, section in config.items():
        if key.endswith("_conf"):
            good = section is None or isinstance(section, Mapping)
            check(good, key, section, "a section of keys")
    encoder, conf = plain_name(config.get("encoder")), config.get("encoder_conf") or {}
    refuse_moved(conf)
    check_model_keys(config)
    encoders, models = choices_of(config)
    if encoder.startswith(ENCODER_PREFIX):
        allowed = f"one of {', '.join(encoders)}"
        check(encoder in encoders, "encoder", encoder, allowed)
        taker = encoders[encoder]
        check_options("encoder_conf", conf, encoder, taker, taken=("input_size",))
    model = config.get("model")
    if model in models:
        conf = config.get("model_conf")
        taker = models[model]
        check_options("model_conf", conf, f"model: {model}", taker, taken=_PARTS)
    for key, section in config.items():
        if key.endswith("_conf"):
            check_numbers(key, section)


def check_front_end(config: Mapping) -> None:
    """Refuse Kaldi's features where ESPnet would make them of parts of an utterance.

    Its streaming script takes every front-end for its own, with the default's window.

    Raises:
        ConfigError: the config's encoder streams, and its front-end is `kaldi`.
    """
    good = not (has_kaldi(config) and streams(config))
    check(good, "frontend", config.get("frontend"), "default with a streaming encoder")


def check_token_list(token_list: object) -> None:
    """Refuse a file of tokens that is not there, or empty.

    Args:
        token_list: ESPnet's option: the name of a file, or the tokens.

    Raises:
        ConfigError: it is such a file.
    """
    if isinstance(token_list, str | Path):
        path = Path(token_list)
        try:
            good = path.is_file() and path.read_text(encoding="utf-8") != ""
        except ValueError:
            good = False
        allowed = "a file with a token a line, in UTF-8"
        check(good, "token_list", token_list, allowed)


def check_training(args: argparse.Namespace) -> None:
    """Check the options of a supernet's training, before anything is built.

    Raises:
        ConfigError: they would train a wrong model, or none.
    """
    if args.ngpu > 1 and not getattr(args, "distributed", False):
        raise ConfigError(
            f"ngpu={args.ngpu} needs multiprocessing_distributed: true: threads of one "
            "process (DataParallel) would share the switch that says which size "
            "computes."
        )
    for package, needed in (
        ("editdistance", True),
        ("tensorboard", args.use_tensorboard),
    ):
        if needed and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"training needs the package {package}: pip install {package}."
            )
    if not args.collect_stats:
        check_no_subnet(args.model_conf.get("subnet"))
    for key, why in _OFF.items():
        given = getattr(args, key, False)
        check(not given, key, given, f"false for a family: {why}")
    # Adapted matrices are other modules, with other names, than those that are cut.
    adapts = getattr(args, "use_adapter", False)
    allowed = "false for a supernet; extract a size, and adapt that"
    check(not adapts, "use_adapter", adapts, allowed)
    for key, annotation in _STOCK.items():
        check_value(key, getattr(args, key), annotation)
    # Infinity is a way to say that nothing is clipped.
    number = type(args.grad_clip) in (int, float)
    check(number and args.grad_clip > 0, "grad_clip", args.grad_clip, "above 0")
    if not args.collect_stats:  # where asr.sh says nothing of `normalize`
        check_streaming(vars(args))
    # Sizes would be validated, and epochs chosen, with what has not trained.
    if args.model_conf.get("contexts") is not None:
        size = (args.encoder_conf or {}).get("block_size")
        allowed = "above 0 with contexts: whole utterances are one of these"
        check(size != 0, "encoder_conf: block_size", size, allowed)
    _check_optimizer(args)
    check_criterion("early_stopping_criterion", args.early_stopping_criterion)
    check_criteria(args.best_model_criterion)
    _check_modes(args)


def check_no_subnet(size: int | None) -> None:
    """Refuse a training in which only one size would compute.

    Raises:
        ConfigError: `subnet` is set.
    """
    allowed = "left out of a training config: it is the size that decodes"
    check(size is None, "model_conf: subnet", size, allowed)


def _check_modes(args: argparse.Namespace) -> None:
    """Search epochs hide behind the worst value, which a number has in one mode."""
    stopping = [] if args.patience is None else [args.early_stopping_criterion]
    modes: dict[tuple, str] = {}
    for phase, name, mode in [*args.best_model_criterion, *stopping]:
        same = modes.setdefault((phase, name), mode) == mode
        key = "best_model_criterion, early_stopping_criterion"
        check(same, key, [phase, name, mode], "of one mode for each number")


def _check_optimizer(args: argparse.Namespace) -> None:
    """Build the optimiser and its scheduler for one number, before all of the model."""
    for section in ("optim_conf", "scheduler_conf"):
        for key, value in (getattr(args, section) or {}).items():
            if is_number_as_text(value):
                check_value(f"{section}: {key}", value, float)
    number = torch.nn.Parameter(torch.zeros(1))
    optim_conf, scheduler_conf = args.optim_conf or {}, args.scheduler_conf or {}
    # Some may have a number for every group of parameters; here is one.
    scheduler_conf = {
        key: value[0]
        if key in _OF_GROUPS and isinstance(value, list) and value
        else value
        for key, value in scheduler_conf.items()
    }
    try:
        section = f"optim={args.optim} with optim_conf={optim_conf}"
        optimizer = optim_classes[args.optim]([number], **optim_conf)
        if args.scheduler is not None:
            section = f"scheduler={args.scheduler} with scheduler_conf={scheduler_conf}"
            scheduler_classes[args.scheduler](optimizer, **scheduler_conf)
    except Exception as error:  # whatever an optimiser thinks of its options
        raise ConfigError(f"{section} cannot be built: {one_line(error)}.") from error
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    needs = closure is not None and closure.default is inspect.Parameter.empty
    allowed = "one whose step needs no closure: ESPnet's trainer gives none"
    check(not needs, "optim", args.optim, allowed)


def check_lasts(schedulers: Sequence[object], updates: int | None) -> None:
    """Refuse a schedule of learning rates that ends before the run does.

    PyTorch's OneCycleLR raises an error at that update, and so in every resumed run.

    Args:
        schedulers: Those that go on with every update; may hold None.
        updates: In the whole run, None where that is not known.

    Raises:
        ConfigError: one ends before.
    """
    for scheduler in schedulers:
        if isinstance(scheduler, torch.optim.lr_scheduler.OneCycleLR):
            last = scheduler.total_steps
            allowed = f"at least {updates}, the updates of the run"
            lasts = updates is None or updates <= last
            check(lasts, "scheduler_conf: total_steps", last, allowed)


def check_trainable(model: torch.nn.Module, freeze_param: list[str]) -> None:
    """Refuse a training in which only scores, or nothing, would learn, or no scores.

    Raises:
        ConfigError: no weight is left to be trained, a search has frozen scores,
            matrices that are sparse from the beginning are frozen, or there is nothing
            of a name.
    """
    for prefix in freeze_param:
        # As ESPnet matches them
        found = any(
            f"{n}.".startswith(f"{prefix}.") for n, _ in model.named_parameters()
        )
        allowed = f"the names of parameters or of parts: no {prefix} is in the model"
        check(found, "freeze_param", freeze_param, allowed)
    selector = model.schedule.selection.selector
    scores = list(selector.parameters())
    learns = all(p.requires_grad for p in scores)
    allowed = "without the schedule, whose scores the search learns"
    check(learns, "freeze_param", freeze_param, allowed)
    sparsity = model.schedule.sparsity
    for name in () if sparsity is None else sparsity.stored:
        trains = sparsity.modules_of[name].weight.requires_grad
        allowed = f"without {name}, whose groups of weights are replaced"
        check(trains, "freeze_param", freeze_param, allowed)
    own = {id(p) for p in scores}
    free = any(p.requires_grad for p in model.parameters() if id(p) not in own)
    check(free, "freeze_param", freeze_param, "less than all of the model")
