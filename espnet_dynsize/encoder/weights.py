"""Weight views: the parameters with which a layer computes for one subnet.

A view is a function of a module's parameters by name, the layer and what computes now;
it returns the parameters to use instead. All views of a layer are composed before one
`functional_call`. Views are needed where a layer has several units (attention heads,
chunks of feed-forward channels); a layer that is one unit is kept or skipped whole.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch.func import functional_call

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.subnet import Sampled
from espnet_dynsize.encoder.kinds import KINDS, Layer

Parameters = dict[str, torch.Tensor]


def narrow(parameters: Parameters, layer: Layer, now: Sampled) -> Parameters:
    """Leave only the kept units in the matrices."""
    kept, number = layer.kept(now), len(layer.units)
    if len(kept) == number:
        return parameters
    # All matrices of a layer lose the same units: one index set, by name and dimension.
    smaller = dict(parameters)
    for name, dim in KINDS[layer.kind].unit_dims.items():
        # Attention with absolute positions has not all of these.
        if name in smaller:
            smaller[name] = _select(smaller[name], dim, kept, number)
    return smaller


def gate(parameters: Parameters, layer: Layer, now: Sampled) -> Parameters:
    """Scale what each unit puts out by its gate, and the bias by the largest one.

    So a layer without open gates adds nothing.
    """
    if now.gates is None:
        return parameters
    gates = now.gates[layer.units.start : layer.units.stop]
    out = KINDS[layer.kind].projection
    weight = parameters[f"{out}.weight"]  # [D, channels of all units, …]
    # Scaling a unit's columns scales what it puts out: (W · g) u = W (g · u). A unit's
    # channels lie together: heads and chunks are contiguous.
    per_channel = gates.repeat_interleave(weight.size(1) // len(gates))
    shape = [1, -1] + [1] * (weight.dim() - 2)  # a convolution has its kernel behind
    return parameters | {
        f"{out}.weight": weight * per_channel.view(shape),
        f"{out}.bias": parameters[f"{out}.bias"] * gates.max(),
    }


# Under gates nothing is narrowed (see `Layer.kept`), so `gate` finds whole matrices.
VIEWS = (narrow, gate)


def call(
    module: torch.nn.Module, layer: Layer, now: Sampled | None
) -> Callable[..., torch.Tensor]:
    """What computes the layer's module for the subnet that computes now."""
    if len(layer.units) == 1 or now is None:
        return module
    return partial(_call_viewed, module, layer, now)


def _call_viewed(module: torch.nn.Module, layer: Layer, now: Sampled, *inputs):
    whole = dict(module.named_parameters())
    seen = whole
    for view in VIEWS:
        seen = view(seen, layer, now)
    # Most layers of most subnets: no copy, no indirection.
    if seen is whole:
        return module(*inputs)
    # ESPnet's attention views channels as [h, d_k]: with fewer of them, h must follow.
    # What each head has, d_k, stays.
    with _heads(module, len(layer.kept(now))):
        return functional_call(module, seen, inputs)


def delete_units(module: torch.nn.Module, layer: Layer, now: Sampled) -> None:
    """Delete all but the kept units from the layer's module, for good."""
    for name, value in narrow(dict(module.named_parameters()), layer, now).items():
        path, _, leaf = name.rpartition(".")
        owner = module.get_submodule(path)
        setattr(owner, leaf, torch.nn.Parameter(value.detach().clone()))
        if isinstance(owner, torch.nn.Linear):
            # Dynamic quantisation reads these; the layer itself does not.
            owner.out_features, owner.in_features = owner.weight.shape
    if hasattr(module, "h"):
        module.h = len(layer.kept(now))


def count_units(kind: str, module: torch.nn.Module, ffn_chunks: int) -> int:
    """Number of units of a layer: heads, chunks of hidden channels, or one.

    Raises:
        ConfigError: the hidden channels cannot be cut into `ffn_chunks`.
    """
    dims = KINDS[kind].unit_dims
    if "w_1.weight" not in dims:
        # Heads, in ESPnet's attention.
        return module.h if dims else 1
    hidden = module.w_1.weight.size(0)
    if ffn_chunks < 1 or hidden % ffn_chunks:
        raise ConfigError(
            f"ffn_chunks={ffn_chunks} must be at least 1 and divide linear_units="
            f"{hidden}."
        )
    return ffn_chunks


def _select(
    parameter: torch.Tensor, dim: int, kept: Sequence[int], num_units: int
) -> torch.Tensor:
    units = parameter.unflatten(dim, (num_units, -1))
    # […, units · channels, …] → […, units, channels, …], choose, and flatten again.
    index = torch.tensor(kept, device=parameter.device)
    shape = list(parameter.shape)
    shape[dim] = -1
    return units.index_select(dim, index).reshape(shape)


@contextmanager
def _heads(module: torch.nn.Module, number: int) -> Iterator[None]:
    """Let an attention module believe that it has `number` heads."""
    stock = getattr(module, "h", None)
    if stock is not None:
        module.h = number
    try:
        yield
    finally:
        if stock is not None:
            module.h = stock
