"""Parts of a layer that can be dropped one by one: heads and feed-forward chunks."""

from collections.abc import Sequence
from contextlib import contextmanager

import torch
from torch.func import functional_call

from espnet_dynsize.errors import ConfigError

ATTENTION = "self_attn"
FEED_FORWARD = ("feed_forward", "feed_forward_macaron")
# Parameter → dimension along which its units lie. The last one of each kind is the
# projection out of the units: what a unit's gate scales.
_ATTENTION_DIMS = {
    "linear_q.weight": 0,
    "linear_q.bias": 0,
    "linear_k.weight": 0,
    "linear_k.bias": 0,
    "linear_v.weight": 0,
    "linear_v.bias": 0,
    "linear_pos.weight": 0,
    "pos_bias_u": 0,
    "pos_bias_v": 0,
    "linear_out.weight": 1,
}
_FEED_FORWARD_DIMS = {"w_1.weight": 0, "w_1.bias": 0, "w_2.weight": 1}


def count_units(kind: str, module: torch.nn.Module, ffn_chunks: int) -> int:
    """Number of units of a layer: heads, chunks of hidden channels, or one.

    Raises:
        ConfigError: the hidden channels cannot be cut into `ffn_chunks`.
    """
    if kind == ATTENTION:
        return module.h
    if kind not in FEED_FORWARD:
        return 1
    hidden = module.w_1.weight.size(0)
    if ffn_chunks < 1 or hidden % ffn_chunks:
        raise ConfigError(
            f"ffn_chunks={ffn_chunks} must be at least 1 and divide linear_units="
            f"{hidden}."
        )
    return ffn_chunks


def call(
    module: torch.nn.Module,
    kind: str,
    kept: Sequence[int],
    num_units: int,
    gates: torch.Tensor | None,
    *inputs,
) -> torch.Tensor:
    """Compute a layer's module with some of its units.

    Args:
        module: Attention, feed-forward or convolution module.
        kind: Name of the module in its block.
        kept: Units that compute, counted from 0.
        num_units: Units that the module has.
        gates: Shape [num_units]; scales what the units put out, and the bias by the
            largest gate: a layer without open gates adds nothing.
    """
    if gates is None and len(kept) == num_units:
        return module(*inputs)
    parameters = narrowed(module, kind, kept, num_units)
    if gates is not None:
        _scale(parameters, kind, gates[list(kept)])
    with _heads(module, len(kept)):
        return functional_call(module, parameters, inputs)


def narrowed(
    module: torch.nn.Module, kind: str, kept: Sequence[int], num_units: int
) -> dict[str, torch.Tensor]:
    """The module's parameters, with only the kept units in them."""
    dims = _ATTENTION_DIMS if kind == ATTENTION else _FEED_FORWARD_DIMS
    chosen = dict(module.named_parameters())
    for name, dim in dims.items():
        if name in chosen:
            chosen[name] = _select(chosen[name], dim, kept, num_units)
    return chosen


def narrow(
    module: torch.nn.Module, kind: str, kept: Sequence[int], num_units: int
) -> None:
    """Delete all but the kept units from the module."""
    for name, value in narrowed(module, kind, kept, num_units).items():
        path, _, leaf = name.rpartition(".")
        owner = module.get_submodule(path)
        setattr(owner, leaf, torch.nn.Parameter(value.detach().clone()))
        if isinstance(owner, torch.nn.Linear):
            owner.out_features, owner.in_features = owner.weight.shape
    if kind == ATTENTION:
        module.h = len(kept)


def _select(parameter, dim: int, kept: Sequence[int], num_units: int) -> torch.Tensor:
    units = parameter.unflatten(dim, (num_units, -1))
    index = torch.tensor(kept, device=parameter.device)
    shape = list(parameter.shape)
    shape[dim] = -1
    return units.index_select(dim, index).reshape(shape)


def _scale(parameters: dict, kind: str, gates: torch.Tensor) -> None:
    out = "linear_out" if kind == ATTENTION else "w_2"
    weight = parameters[f"{out}.weight"]
    per_channel = gates.repeat_interleave(weight.size(1) // len(gates))
    shape = [1, -1] + [1] * (weight.dim() - 2)
    parameters[f"{out}.weight"] = weight * per_channel.view(shape)
    parameters[f"{out}.bias"] = parameters[f"{out}.bias"] * gates.max()


@contextmanager
def _heads(module: torch.nn.Module, number: int):
    """Let an attention module believe that it has `number` heads."""
    stock = getattr(module, "h", None)
    if stock is not None:
        module.h = number
    try:
        yield
    finally:
        if stock is not None:
            module.h = stock
