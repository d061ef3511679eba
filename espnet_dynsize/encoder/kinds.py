"""The kinds of residual layer in ESPnet's encoder blocks."""

from typing import NamedTuple

import torch


class Kind(NamedTuple):
    """A kind of residual layer.

    Args:
        label: Its name in pictures.
        modules: The modules of a block that belong to it alone, besides its norm; a
            block has the layer where it has the first of them.
    """

    label: str
    modules: tuple[str, ...]


KINDS = {
    "feed_forward_macaron": Kind("feed-forward 1", ("feed_forward_macaron",)),
    "self_attn": Kind("attention", ("self_attn", "concat_linear")),
    "merged_branch": Kind(
        "merged branch",
        (
            "merge_proj",
            "depthwise_conv_fusion",
            "attn",
            "norm_mha",
            "cgmlp",
            "norm_mlp",
        ),
    ),
    "conv_module": Kind("convolution", ("conv_module",)),
    "feed_forward": Kind("feed-forward 2", ("feed_forward",)),
}


def has_layer(block: torch.nn.Module, kind: str) -> bool:
    """Whether a block has a layer of this kind (that is not deleted)."""
    return getattr(block, KINDS[kind].modules[0], None) is not None


def layer_kinds(block: torch.nn.Module) -> list[str]:
    """The kinds of layer that a block has, also a stock one, as `KINDS` has them."""
    return [kind for kind in KINDS if has_layer(block, kind)]
