"""What a resumed run must have in common with the one that began."""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from espnet_dynsize.control.selection import Phase, check_search_fits
from espnet_dynsize.core.checkpoint import misfit, model_states
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.identity import canonical
from espnet_dynsize.core.yaml_base import read_config
from espnet_dynsize.train.crash import CHECKPOINT, finish_epoch, load_checkpoint
from espnet_dynsize.train.model import JointLoss
from espnet_dynsize.train.options import PhasedTrainerOptions

# What they say is in the checkpoint, and comes from there in a resumed run
_KEPT = ("optim", "optim_conf", "scheduler", "scheduler_conf")


def check_not_overwritten(folder: Path) -> None:
    """Refuse to begin a training where one has written its epochs.

    Raises:
        ConfigError: there are some.
    """
    left = [path.name for path in folder.glob("*epoch.pth")]
    left += [CHECKPOINT] if (folder / CHECKPOINT).exists() else []
    if left:
        raise ConfigError(
            f"resume=False would begin anew in {folder} and overwrite {min(left)}: "
            "resume, use another output_dir, or move what is there."
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
    for key in _KEPT:
        given = getattr(args, key)
        # ESPnet writes an empty section for null, and lists for tuples.
        before, now = canonical(began.get(key)) or None, canonical(given) or None
        if key in began and before != now:
            raise ConfigError(
                f"resume: {key}={given} must be {began[key]}, with which the run in "
                f"{folder} began: its state would go on with that; use another "
                "output_dir to train with something else."
            )


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
