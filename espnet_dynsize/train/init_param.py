"""Weights that a training starts from: refused where ESPnet would load wrong ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from espnet2.torch_utils.load_pretrained_model import load_pretrained_model

from espnet_dynsize.core.checkpoint import read_states
from espnet_dynsize.core.errors import ConfigError, check, one_line
from espnet_dynsize.core.subnet import weight_name
from espnet_dynsize.train.model import JointLoss

_BLOCKS = "encoder.encoders."


class Given(NamedTuple):
    """What one `path:source:target:excluded` of ESPnet's `init_param` offers.

    Args:
        option: The option itself.
        target: The model's part that is to get the weights; "" for all of it.
        weights: By their names in that part, what is excluded left out.
        names: In the model, of all weights, also of those that are excluded.
    """

    option: str
    target: str
    weights: dict[str, torch.Tensor]
    names: set[str]


def read_init_param(init_param: Sequence[str]) -> list[Given]:
    """Read the files of weights to start from.

    ESPnet would ask at the terminal whether to read such a file in an unsafe way.

    Raises:
        ConfigError: a file is not a state dict of finite numbers.
    """
    return [_read(option) for option in init_param]


def _read(option: str) -> Given:
    path, source, target, excluded = [*option.split(":", 3), "", "", ""][:4]
    # Masks and counters of a supernet may be unset, and are not taken.
    states = {
        name: value
        for name, value in read_states(Path(path)).items()
        if not name.startswith("schedule.")
    }
    for name, value in states.items():
        allowed = f"finite numbers; {name} in it has others"
        check(bool(value.isfinite().all()), "init_param", path, allowed)
    prefix, start = (f"{part}." if part else "" for part in (source, target))
    # As ESPnet does, for which an empty name after a third colon excludes all.
    left_out = tuple(excluded.split(",")) if option.count(":") > 2 else ()
    found = {n.removeprefix(prefix): n for n in states if n.startswith(prefix)}
    weights = {
        name: states[there]
        for name, there in found.items()
        if not there.startswith(left_out)
    }
    return Given(option, target, weights, {start + name for name in found})


def check_init_param(
    model: torch.nn.Module, given: Sequence[Given], ignore_mismatch: bool
) -> None:
    """Refuse weights to start from of which nothing, or not all, is the model's.

    Args:
        model: One that is not trained; the weights are loaded into it.
        given: What `read_init_param` has read.
        ignore_mismatch: Leave out what does not fit.

    Raises:
        ConfigError: nothing fits, or something does not and is not to be left out.
    """
    sparsity = model.schedule.sparsity if isinstance(model, JointLoss) else None
    for one in given:
        stored = () if sparsity is None else sparsity.stored
        good = not any(_within(one.target, weight_name(name)) for name in stored)
        allowed = "left out: mest trains from groups that are drawn at random"
        check(good, "init_param", one.option, allowed)
        _check_fits(model, one, ignore_mismatch)
    missing = _missing_layers(model, given)
    if missing and not ignore_mismatch:
        options = " ".join(one.option for one in given)
        raise ConfigError(
            f"init_param={options} must have all layers of the encoder, as a cut size "
            f"has not; there is no {missing[0]}. ignore_init_mismatch: true begins "
            "with random weights there."
        )


def _within(part: str, weight: str) -> bool:
    """Whether a weight is in a part of the model; "" is all of it."""
    return not part or f"{weight}.".startswith(f"{part}.")


def _check_fits(model: torch.nn.Module, given: Given, ignore_mismatch: bool) -> None:
    try:
        wanted = model.get_submodule(given.target).state_dict()
    except AttributeError as error:
        raise ConfigError(
            f"init_param={given.option}: the model has no part {given.target}."
        ) from error
    fits = any(
        name in wanted and wanted[name].shape == value.shape
        for name, value in given.weights.items()
    )
    allowed = "weights of the model; nothing in it has a name and shape of these"
    check(fits, "init_param", given.option, allowed)
    try:
        load_pretrained_model(given.option, model, ignore_mismatch)
    except RuntimeError as error:
        raise ConfigError(
            f"init_param={given.option} does not fit ({one_line(error)[:300]}); "
            "ignore_init_mismatch: true leaves out what does not."
        ) from error


def _missing_layers(model: torch.nn.Module, given: Sequence[Given]) -> list[str]:
    """What no file has of the blocks, where one has something of the blocks."""
    # What exists per size begins as a copy of these.
    names = [name for name, _ in model.named_parameters()]
    blocks = {n for n in names if n.startswith(_BLOCKS) and ".by_size." not in n}
    needed, loaded = set(), set()
    for one in given:
        start = f"{one.target}." if one.target else ""
        part = {name for name in blocks if name.startswith(start)}
        needed |= part if part & one.names else set()
        loaded |= one.names
    return sorted(needed - loaded)
