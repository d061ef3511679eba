"""ESPnet's Conformer block with layers that can be dropped or gated."""

from typing import NamedTuple

import torch
from espnet2.legacy.nets.pytorch_backend.conformer.encoder_layer import EncoderLayer

from espnet_dynsize.subnet import Switch


class Layer(NamedTuple):
    """One residual layer `x + scale * f(norm(x))` of a block."""

    kind: str  # also the name of the module f
    norm: str
    index: int  # position among all layers of the encoder


_LAYERS = (
    ("feed_forward_macaron", "norm_ff_macaron"),
    ("self_attn", "norm_mha"),
    ("conv_module", "norm_conv"),
    ("feed_forward", "norm_ff"),
)
KINDS = tuple(kind for kind, _ in _LAYERS)


def layer_kinds(block: EncoderLayer) -> list[str]:
    """The kinds of layer that a block (of a supernet or stock) has, in order."""
    return [kind for kind, _ in _LAYERS if getattr(block, kind, None) is not None]


class SupernetBlock(EncoderLayer):
    """Stock `EncoderLayer` whose residual layers obey a switch.

    Parameter names are those of the stock block. A dropped layer is skipped through
    its residual; the block's final norm stays (arXiv 2407.18930, section 3).

    Args:
        stock: The block to take over, submodules included.
        first: Index of the block's first layer among the encoder's layers.
        switch: Names the active subnet.
    """

    def __init__(self, stock: EncoderLayer, first: int, switch: Switch):
        super().__init__(
            stock.size,
            stock.self_attn,
            stock.feed_forward,
            stock.feed_forward_macaron,
            stock.conv_module,
            stock.dropout.p,
            stock.normalize_before,
            stock.concat_after,
        )
        self.switch = switch
        norms = dict(_LAYERS)
        self.layers: list[Layer] = [
            Layer(kind, norms[kind], first + i)
            for i, kind in enumerate(layer_kinds(stock))
        ]

    def remove(self, layer: Layer) -> None:
        """Delete the layer's parameters; it can never be computed again."""
        setattr(self, layer.kind, None)
        if layer.kind == "self_attn" and self.concat_after:
            self.concat_linear = None
        if self.normalize_before:
            setattr(self, layer.norm, None)

    def forward(self, x_input, mask, cache=None):
        """Encode like the stock block.

        Args:
            x_input: [B, T, D], or a tuple of it and the positions [1, T', D].
            mask: [B, 1, T], True = valid frame.

        Raises:
            NotImplementedError: `cache` is given; encoders never use it.
        """
        if cache is not None:
            raise NotImplementedError("A supernet block has no incremental cache.")
        x, pos_emb = x_input if isinstance(x_input, tuple) else (x_input, None)
        for layer in self.layers:
            x = self._residual(layer, x, pos_emb, mask)
        if hasattr(self, "norm_final"):
            x = self.norm_final(x)
        return (x if pos_emb is None else (x, pos_emb)), mask

    def _residual(
        self,
        layer: Layer,
        x: torch.Tensor,
        pos_emb: torch.Tensor | None,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        norm = getattr(self, layer.norm)
        if self.switch.keeps(layer.index) and getattr(self, layer.kind) is not None:
            y = norm(x) if self.normalize_before else x
            y = getattr(self, f"_{layer.kind}")(y, pos_emb, mask)
            x = x + self.switch.weigh(layer.index, y, self.training)
        return x if self.normalize_before else norm(x)

    def _feed_forward_macaron(self, x, pos_emb, mask):
        return self.ff_scale * self.dropout(self.feed_forward_macaron(x))

    def _self_attn(self, x, pos_emb, mask):
        position = () if pos_emb is None else (pos_emb,)
        x_att = self.self_attn(x, x, x, *position, mask)
        if self.concat_after:
            return self.concat_linear(torch.cat((x, x_att), dim=-1))
        return self.dropout(x_att)

    def _conv_module(self, x, pos_emb, mask):
        masked = {"mask_pad": mask} if self._conv_takes_mask else {}
        return self.dropout(self.conv_module(x, **masked))

    def _feed_forward(self, x, pos_emb, mask):
        return self.ff_scale * self.dropout(self.feed_forward(x))
