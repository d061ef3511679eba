"""Whether a state dict fits a model."""

import torch


def model_states(checkpoint: dict) -> dict:
    """The model's state dict, also out of a checkpoint of Lightning."""
    return checkpoint.get("state_dict", checkpoint)


def misfit(model: torch.nn.Module, states: dict) -> str | None:
    """What is first wrong with `states` for `model`; None where they fit exactly."""
    own = model.state_dict()
    for name in sorted(own.keys() | states.keys()):
        if name not in own or name not in states:
            return f"{name} is only in the {'model' if name in own else 'checkpoint'}"
        if own[name].shape != states[name].shape:
            return (
                f"{name} has shape {list(states[name].shape)}, the model "
                f"{list(own[name].shape)}"
            )
    return None
