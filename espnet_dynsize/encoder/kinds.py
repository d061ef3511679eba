"""Residual layers: their kinds in ESPnet's encoder blocks, and one layer of a block."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch

from espnet_dynsize.core.subnet import Sampled


class Kind(NamedTuple):
    """A kind of residual layer.

    Args:
        label: Its name in pictures.
        modules: The modules of a block that belong to it alone, besides its norm; a
            block has the layer where it has the first of them.
        unit_dims: With `granularity: component`, parameter of the first module → the
            dimension along which its units (heads, chunks of channels) lie.
        projection: The linear layer out of the units: what a unit's gate scales.
    """

    label: str
    modules: tuple[str, ...]
    unit_dims: Mapping[str, int] = MappingProxyType({})
    projection: str = ""


# Linear weights are [out, in]. ESPnet reshapes channels to [heads, d_k], so a head is a
# run of rows where channels are made, and of columns in the projection. That one's bias
# is shared by all. Without relative positions, the names with `pos` do not exist.
_HEADS = {
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
# ESPnet's feed-forward layers of convolutions have these names and dimensions, too.
_CHUNKS = {"w_1.weight": 0, "w_1.bias": 0, "w_2.weight": 1}
# `merge_proj` is first: through it goes all that the branch adds, so that the layer is
# there where it is, and adds nothing where it is zero.
_MERGED_BRANCH = (
    "merge_proj",
    "depthwise_conv_fusion",
    "attn",
    "norm_mha",
    "cgmlp",
    "norm_mlp",
    # Of ESPnet's chunked encoder
    *("depthwise_conv_mod", "self_att", "norm_self_att", "conv_mod"),
    *("channel_proj1", "channel_proj2"),
)
KINDS = {
    "feed_forward_macaron": Kind(
        "feed-forward 1", ("feed_forward_macaron",), _CHUNKS, "w_2"
    ),
    "self_attn": Kind(
        "attention", ("self_attn", "concat_linear"), _HEADS, "linear_out"
    ),
    "merged_branch": Kind("merged branch", _MERGED_BRANCH),
    # Of ESPnet's chunked encoder; where there is a merged branch, they belong to it.
    "self_att": Kind("attention", ("self_att",)),
    "conv_mod": Kind("convolution", ("conv_mod",)),
    "conv_module": Kind("convolution", ("conv_module",)),
    "feed_forward": Kind("feed-forward 2", ("feed_forward",), _CHUNKS, "w_2"),
}


class Layer(NamedTuple):
    """One residual layer `x + f(norm(x))` of a block."""

    kind: str  # a key of KINDS
    norm: str | None  # None: f has norms of its own
    units: range  # positions of its units among all units of the encoder

    def modules(self, block: torch.nn.Module) -> dict[str, torch.nn.Module]:
        """What belongs to the layer alone, by the name it has in its block."""
        names = list(KINDS[self.kind].modules)
        # A norm after the layer computes on the residual sum, also without the layer.
        if self.norm is not None and block.normalize_before:
            names.append(self.norm)
        modules = {name: getattr(block, name, None) for name in names}
        return {name: module for name, module in modules.items() if module is not None}

    def kept(self, now: Sampled | None) -> tuple[int, ...]:
        """Units that compute, counted within the layer."""
        # Gates inside a layer are soft: every unit computes, scaled by its gate.
        gated_inside = now is not None and now.gates is not None and len(self.units) > 1
        if now is None or gated_inside:
            return tuple(range(len(self.units)))
        return now.subnet.within(self.units)


def has_layer(block: torch.nn.Module, kind: str) -> bool:
    """Whether a block has a layer of this kind (that is not deleted)."""
    return getattr(block, KINDS[kind].modules[0], None) is not None


def layer_kinds(block: torch.nn.Module) -> list[str]:
    """The kinds of layer that a block has, also a stock one, as `KINDS` has them.

    A layer whose weights are all zero, as stock format has them, is none.
    """
    merged = has_layer(block, "merged_branch")
    kinds = [
        k for k in KINDS if not (merged and KINDS[k].modules[0] in _MERGED_BRANCH[1:])
    ]
    return [kind for kind in kinds if has_layer(block, kind) and _adds(block, kind)]


def _adds(block: torch.nn.Module, kind: str) -> bool:
    module = getattr(block, KINDS[kind].modules[0])
    return any(bool(p.any()) for p in module.parameters())
