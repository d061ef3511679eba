"""Whether a state dict fits a model."""

from collections.abc import Mapping

import torch

# Where version 0.1 kept the schedule → where it is now
_MOVED = {
    "encoder.schedule.update": "schedule.update",
    "encoder.schedule.joint_epochs": "schedule.joint_epochs",
    "encoder.schedule.": "schedule.selection.",
}


def model_states(checkpoint: dict) -> dict:
    """The model's state dict with its present names, also out of Lightning's."""
    states = dict(checkpoint.get("state_dict", checkpoint))
    rename_moved(states)
    return states


def rename_moved(states: dict, prefix: str = "") -> None:
    """Give the entries of a checkpoint of version 0.1 their present names, in place.

    Args:
        states: State dict.
        prefix: What stands before the model's names in it.
    """
    start = f"{prefix}encoder.schedule."
    for name in [name for name in states if name.startswith(start)]:
        old = next(old for old in _MOVED if name.startswith(prefix + old))
        tail = name.removeprefix(prefix + old)
        states[prefix + _MOVED[old] + tail] = states.pop(name)


def misfit(model: torch.nn.Module, states: Mapping[str, torch.Tensor]) -> str | None:
    """What is first wrong with `model_states` for `model`; None where they fit."""
    expected, given = model.state_dict(), dict(states)
    for prefix, module in model.named_modules():
        if getattr(module, "is_opaque", False):  # has state that is not read here
            given = {n: v for n, v in given.items() if not n.startswith(f"{prefix}.")}
    for name in sorted(expected.keys() | given.keys()):
        if name not in expected or name not in given:
            where = "model" if name in expected else "checkpoint"
            return f"{name} is only in the {where}"
        if expected[name].shape != given[name].shape:
            return (
                f"{name} has shape {list(given[name].shape)}, the model "
                f"{list(expected[name].shape)}"
            )
    return None
