"""What a resumed run must have in common with the one that began."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from espnet2.tasks.abs_task import optim_classes, scheduler_classes

from espnet_dynsize.control.selection import Phase, check_search_fits
from espnet_dynsize.core.checkpoint import misfit, model_states, read_checkpoint
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.files import whole
from espnet_dynsize.core.identity import canonical, that_matter
from espnet_dynsize.core.yaml_base import read_config
from espnet_dynsize.train.crash import CHECKPOINT, finish_epoch, load_checkpoint
from espnet_dynsize.train.model import JointLoss
from espnet_dynsize.train.options import PhasedTrainerOptions

# What they say is in the checkpoint, and comes from there in a resumed run
_KEPT = {"optim": optim_classes, "scheduler": scheduler_classes}
_MODELS = ("*epoch.pth", "*.ave.pth", "*.ave_*best.pth", "*.best.pth", CHECKPOINT)


def check_not_overwritten(folder: Path, resume: bool) -> None:
    """Refuse to begin a training where one has left its models.

    Args:
        folder: Of the run.
        resume: ESPnet's option; there is no checkpoint to go on from.

    Raises:
        ConfigError: there are some.
    """
    left = sorted(path.name for kind in _MODELS for path in folder.glob(kind))
    if left:
        advice = "use another output_dir, or move what is there"
        why = f"there is no {CHECKPOINT}" if resume else "with resume=False"
        raise ConfigError(
            f"the training would begin anew in {folder}, {why}, and overwrite "
            f"{left[0]}: {advice if resume else f'resume, {advice}'}."
        )


def check_same_optimizer(args: argparse.Namespace, folder: Path) -> None:
    """Refuse options that a resumed run would not follow.

    Raises:
        ConfigError: the folder's config.yaml has others.
    """
    try:
        began = read_config(folder / "config.yaml")
    except ConfigError:  # a kill may have left none
        return
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
    checkpoint = _first_rank_first(lambda: load_checkpoint(folder))
    if checkpoint is None:
        return
    states = check_resumed(model, checkpoint, folder / CHECKPOINT)
    _check_optimizers(checkpoint, parts, folder / CHECKPOINT)
    search = int(states["schedule.selection.search_updates"])
    option = f"max_epoch={options.max_epoch}"
    check_search_fits(search, updates, option, str(folder / CHECKPOINT))
    # ESPnet asks for the options of the epoch that was last, before it trains the next.
    if not states["schedule.selection.fixed_masks"].isnan().any():
        options.enter(Phase.JOINT, int(states["schedule.joint_epochs"].item()))
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
            f"resume: {path} does not fit the config: {wrong}; use another output_dir "
            "or the config that the run began with."
        )
    return states


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
    return None if state is None else sorted(state)


def _first_rank_first(load: Callable):
    """Let the first rank, which may mend the file, load before the others."""
    if not torch.distributed.is_initialized():
        return load()
    # The first one may replace a cut checkpoint by the one before it.
    loaded = load() if is_first_rank() else None
    torch.distributed.barrier()
    return loaded if is_first_rank() else load()


def is_first_rank() -> bool:
    """Whether this process is the first of a distributed training, or alone."""
    distributed = torch.distributed
    return not distributed.is_initialized() or distributed.get_rank() == 0
