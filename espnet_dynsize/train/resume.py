"""What a resumed run must have in common with the one that began."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from espnet2.tasks.abs_task import optim_classes, scheduler_classes
from espnet2.train.reporter import Reporter

from espnet_dynsize.control.selection import Phase, check_search_fits
from espnet_dynsize.core.checkpoint import misfit, model_states, read_checkpoint
from espnet_dynsize.core.context import SIZES
from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.core.files import whole
from espnet_dynsize.core.identity import canonical, that_matter
from espnet_dynsize.core.yaml_base import read_config
from espnet_dynsize.train.crash import (
    CHECKPOINT,
    finish_epoch,
    load_checkpoint,
    models_in,
)
from espnet_dynsize.train.model import JointLoss
from espnet_dynsize.train.options import PhasedTrainerOptions
from espnet_dynsize.train.ranks import first_rank_first, is_first_rank

# What they say is in the checkpoint, and comes from there in a resumed run
_KEPT = {"optim": optim_classes, "scheduler": scheduler_classes}


def check_not_overwritten(folder: Path, resume: bool) -> None:
    """Refuse to begin a training where one has left its models.

    Args:
        folder: Of the run.
        resume: ESPnet's option; there is no checkpoint to go on from.

    Raises:
        ConfigError: there are some.
    """
    left = models_in(folder)
    if left:
        advice = "use another output_dir, or move what is there"
        why = f"there is no {CHECKPOINT}" if resume else "with resume=False"
        raise ConfigError(
            f"the training would begin anew in {folder}, {why}, and overwrite "
            f"{left[0]}: {advice if resume else f'resume, {advice}'}."
        )


def check_config_apart(config: str | None, folder: Path) -> None:
    """Refuse a config that the run's own would replace.

    Args:
        config: What `--config` names.
        folder: Of the run, where ESPnet writes `config.yaml`.

    Raises:
        ConfigError: it is that file.
    """
    own = folder / "config.yaml"
    there = config is not None and own.is_file() and Path(config).exists()
    same = there and own.samefile(config)
    allowed = "outside output_dir, where the run writes a config.yaml of its own"
    check(not same, "config", config, allowed)


def began_with(folder: Path) -> dict:
    """The config of the run in a folder; empty where a kill has left none."""
    try:
        return read_config(folder / "config.yaml")
    except ConfigError:
        return {}


def check_same_optimizer(args: argparse.Namespace, began: dict, folder: Path) -> None:
    """Refuse options that a resumed run would not follow.

    Args:
        args: Of the resumed run.
        began: See `began_with`.
        folder: Of the run.

    Raises:
        ConfigError: the run began with others.
    """
    for name, classes in _KEPT.items():
        taker = classes.get(getattr(args, name))
        for key in (name, f"{name}_conf"):
            given = getattr(args, key)
            if key in began and _plain(began[key], taker) != _plain(given, taker):
                raise ConfigError(
                    f"resume: {key}={given} must be {began[key]}, with which the run "
                    f"in {folder} began: its state would go on with that; use another "
                    "output_dir to train with something else."
                )


def check_epochs_kept(
    args: argparse.Namespace, began: dict, folder: Path, checkpoint: dict
) -> None:
    """Refuse to average more epochs than the run that began has kept.

    Args:
        args: Of the resumed run.
        began: See `began_with`.
        folder: Of the run.
        checkpoint: Its last one, of a family.

    Raises:
        ConfigError: the model of one is not there.
    """
    most = _most(args.keep_nbest_models)
    # With no more than before, what is missing is replaced as the run goes on.
    if most <= _most(began.get("keep_nbest_models", most)):
        return
    ended = Reporter()
    ended.load_state_dict(checkpoint["reporter"])
    joint = int(checkpoint["model"].get("schedule.joint_epochs", 0))
    for phase, name, mode in args.best_model_criterion:
        if not ended.has(phase, name):
            continue
        for epoch, _ in ended.sort_epochs_and_values(phase, name, mode)[:joint][:most]:
            # The last one's may be missing after a kill; it is written when resumed.
            there = (folder / f"{epoch}epoch.pth").exists() or epoch == ended.epoch
            allowed = f"less: {folder}/{epoch}epoch.pth has not been kept"
            check(there, "resume: keep_nbest_models", most, allowed)


def _most(numbers: object) -> int:
    """The most of ESPnet's `keep_nbest_models`: a number, or a list of them."""
    listed = numbers if isinstance(numbers, list | tuple) else [numbers]
    return max((number for number in listed if type(number) is int), default=1)


def _plain(value: object, taker: type | None) -> object:
    """A name, or options without those at their defaults; null for none."""
    if isinstance(value, Mapping):
        value = that_matter(value, taker)
    return canonical(value) or None


def bring_epochs_up_to_date(folder: Path) -> None:
    """Make the models of an older version such that they can be averaged with others.

    Args:
        folder: Of the run.
    """
    for path in folder.glob("*epoch.pth"):
        old = read_checkpoint(path)
        new = model_states(old, f"checkpoint {path}")
        same = old.keys() == new.keys()
        if not same or any(new[key].shape != old[key].shape for key in new):
            with whole(path) as partial:
                torch.save(new, partial)


def check_same_blocks(args: argparse.Namespace, began: Mapping, folder: Path) -> None:
    """Refuse other blocks of a streaming encoder, in which sizes are validated.

    With `contexts`, any of these may be chosen after training.

    Raises:
        ConfigError: the run began with others.
    """
    confs = [args.encoder_conf, began.get("encoder_conf") or {}]
    mains = [conf.get("main_conf") or {} for conf in confs]
    of_chunks = ("short_chunk_size", "num_left_chunks")
    sections = [("", confs, SIZES), ("main_conf: ", mains, of_chunks)]
    for name, (own, then), keys in sections:
        for key in keys:
            good, given = own.get(key) == then.get(key), own.get(key)
            allowed = f"{then.get(key)}, with which the run of {folder} began"
            check(good, f"encoder_conf: {name}{key}", given, allowed)


def prepare_resume(
    model: JointLoss,
    options: PhasedTrainerOptions,
    updates: int | None,
    parts: dict,
) -> None:
    """Check the checkpoint that will be resumed, and set its phase's options.

    Args:
        model: Built as the config says.
        options: Their phase becomes the checkpoint's.
        updates: In the whole run, None where that is not known.
        parts: The arguments of `Trainer.run`, with `optimizers` and `schedulers`.

    Raises:
        ConfigError: the checkpoint is another run's.
    """
    if not options.resume:
        return
    folder = Path(options.output_dir)
    checkpoint = first_rank_first(lambda: load_checkpoint(folder))
    if checkpoint is None:
        return
    states = check_resumed(model, checkpoint, folder / CHECKPOINT)
    _check_optimizers(checkpoint, parts, folder / CHECKPOINT)
    criteria = list(options.criteria)
    if options.patience_wanted is not None:
        criteria.append(tuple(options.early_stopping_criterion))
    _check_criteria(checkpoint["reporter"], criteria, folder / CHECKPOINT)
    # Now, as its phase is asked for; ESPnet loads the whole model later.
    schedule, prefix = model.schedule, "schedule."
    own = {n.removeprefix(prefix): v for n, v in states.items() if n.startswith(prefix)}
    schedule.load_state_dict(own)
    option = f"max_epoch={options.max_epoch}"
    last = schedule.last_decision
    check_search_fits(last, updates, option, str(folder / CHECKPOINT))
    # ESPnet asks for the options of the epoch that was last, before it trains the next.
    if schedule.phase is Phase.JOINT:
        options.enter(Phase.JOINT, int(schedule.joint_epochs))
    if is_first_rank():
        finish_epoch(folder, checkpoint, options.best_model_criterion)
        bring_epochs_up_to_date(folder)


def check_resumed(
    model: torch.nn.Module, checkpoint: dict, path: Path
) -> dict[str, torch.Tensor]:
    """The state dict of a checkpoint that goes on training `model`.

    Raises:
        ConfigError: it is another model's.
    """
    states = model_states(checkpoint["model"], f"checkpoint {path}")
    wrong = misfit(model, states)
    if wrong is not None:
        raise ConfigError(
            f"resume: {path} cannot go on with this config: {wrong}; use another "
            "output_dir or, if the config has changed, the one that the run began with."
        )
    return states


def _check_criteria(reporter: dict, criteria: Sequence[tuple], path: Path) -> None:
    """Refuse a criterion by which an epoch of the search could be the best one.

    Raises:
        ConfigError: its values in the search have not been hidden.
    """
    for phase, name, _ in criteria:
        for epoch in reporter["stats"].values():
            stats = epoch.get(phase, {})
            searched = stats.get("phase") == Phase.SEARCH
            if searched and name in stats and f"search_{name}" not in stats:
                raise ConfigError(
                    f"resume: best_model_criterion or early_stopping_criterion "
                    f"[{phase}, {name}] must be one with which the run of {path} "
                    "began: epochs of its search would count as the best."
                )


def _check_optimizers(checkpoint: dict, parts: dict, path: Path) -> None:
    """Refuse the state of another optimiser or learning-rate scheduler."""
    for kind, shape in (("optimizers", _groups), ("schedulers", _keys)):
        built = [None if part is None else part.state_dict() for part in parts[kind]]
        if list(map(shape, checkpoint[kind])) != list(map(shape, built)):
            raise ConfigError(
                f"resume: {path} was written with other {kind}; use another output_dir "
                "or the config that the run began with."
            )


def _groups(state: dict) -> list[tuple]:
    """The options and the number of parameters of each group."""
    # What a scheduler adds is the schedulers' business.
    groups = state["param_groups"]
    return [(sorted({*g} - {"initial_lr"}), len(g["params"])) for g in groups]


def _keys(state: dict | None) -> list[str] | None:
    # ReduceLROnPlateau has this one only after its first step.
    return None if state is None else sorted({*state} - {"_last_lr"})
