"""Cut one subnet out of a trained supernet."""

import copy
from collections.abc import Iterable

import torch

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.keys import FAMILY_KEYS, granularity, of_transducer_task
from espnet_dynsize.core.pattern import Pattern
from espnet_dynsize.core.subnet import FULL, Subnet, weight_name
from espnet_dynsize.deploy.calibrate import calibrate
from espnet_dynsize.deploy.experiment import build_model, load_states
from espnet_dynsize.train.model import JointLoss


def cut(
    model: JointLoss,
    config: dict,
    subnet: Subnet,
    audio: Iterable[torch.Tensor] | None = None,
    context: str | None = None,
) -> tuple[dict, dict]:
    """Config and state dict of the model that holds only what `subnet` uses.

    Args:
        model: A supernet's model.
        config: Its config.
        subnet: Any subnet of it, of the family or not.
        audio: Inputs [samples] or [L, D] on which the norm statistics are measured
            anew; needed for a subnet with batch norm that is not of the family.
        context: One of the family's; None: the encoder's own.

    Raises:
        ConfigError: the model is no supernet, the subnet cannot be cut, or it has not
            trained with this context.
    """
    if not isinstance(model, JointLoss):
        raise ConfigError("only a supernet (model: dynsize) can be cut.")
    model.check_subnet(subnet, audio is not None, context)
    if context is not None:
        config = model.context(context, subnet).within(config)
    # Trained modules cannot be copied: build the supernet again, then delete units.
    whole = build_model(config)
    load_states(whole, model.state_dict(), "the supernet")
    whole.encoder.keep_units(list(subnet.kept))
    states = states_of_head(whole.state_dict(), subnet.head)
    for name, mask in (model.masks(subnet) or {}).items():
        weight = weight_name(name)
        if weight in states:  # of a kept unit
            states[weight] = states[weight] * mask.to(states[weight])
    small_config = cut_config(config, subnet)
    small = build_model(small_config)
    states = {name: states[name] for name in small.state_dict()}
    if audio is not None:
        load_states(small, states, "the cut model")
        calibrate(small, audio)
        states = small.state_dict()
    return small_config, states


def patterns(model: JointLoss) -> dict[str, Pattern]:
    """Name of a weight of the encoder → pattern, where it can be sparse.

    Other parts are ESPnet's own classes, which read dense weights only.
    """
    sparsity = model.schedule.sparsity
    found = {} if sparsity is None else sparsity.patterns
    named = {weight_name(matrix): pattern for matrix, pattern in found.items()}
    return {name: p for name, p in named.items() if name.startswith("encoder.")}


def cut_config(config: dict, subnet: Subnet) -> dict:
    """The config of the cut model: ESPnet's own model around the kept units."""
    small = copy.deepcopy(config)
    for key in FAMILY_KEYS:
        small["model_conf"].pop(key, None)
    small["encoder_conf"][f"keep_{granularity(config)}s"] = list(subnet.kept)
    # `init` would overwrite nothing here, but costs time at every load.
    model = None if of_transducer_task(config) else "espnet"
    return small | {"model": model, "init": None}


def states_of_head(states: dict, head: str) -> dict:
    """The state dict with a head's norm statistics under stock names."""
    renamed = dict(states)
    for name in list(renamed) if head != FULL else []:
        prefix, _, tail = name.partition(f".by_size.{head}.")
        if tail:
            renamed[f"{prefix}.{tail}"] = renamed[name]
    return renamed
