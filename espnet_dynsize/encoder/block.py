"""ESPnet's Conformer block with layers that can be dropped or gated."""

import torch
from espnet2.legacy.nets.pytorch_backend.conformer.encoder_layer import EncoderLayer

from espnet_dynsize.encoder import components
from espnet_dynsize.encoder.residual import Layer, ResidualLayers
from espnet_dynsize.subnet import Switch

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


class SupernetBlock(ResidualLayers, EncoderLayer):
    """Stock `EncoderLayer` whose residual layers obey a switch.

    Parameter names are those of the stock block. A dropped layer is skipped through
    its residual; the block's final norm stays (arXiv 2407.18930, section 3).

    Args:
        stock: The block to take over, submodules included.
        first: Index of the block's first unit among the encoder's units.
        switch: Names the active subnet.
        ffn_chunks: Units are attention heads, this many chunks of a feed-forward
            layer's hidden channels, and convolution modules; None: units are layers.
        skip_empty: A block without any kept layer is skipped, final norm included.
    """

    def __init__(
        self,
        stock: EncoderLayer,
        first: int,
        switch: Switch,
        ffn_chunks: int | None = None,
        skip_empty: bool = False,
    ):
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
        self.skip_empty = skip_empty
        self.layers: list[Layer] = []
        for kind in layer_kinds(stock):
            number = 1
            if ffn_chunks is not None:
                number = components.count_units(kind, getattr(stock, kind), ffn_chunks)
            units = range(first, first + number)
            self.layers.append(Layer(kind, dict(_LAYERS)[kind], units))
            first = units.stop

    def _remove(self, layer: Layer) -> None:
        super()._remove(layer)
        if layer.kind == "self_attn" and self.concat_after:
            self.concat_linear = None

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
        x, mask = self._run_layers(x, pos_emb, mask)
        return (x if pos_emb is None else (x, pos_emb)), mask

    def _feed_forward_macaron(self, call, x, pos_emb, mask):
        return self.ff_scale * self.dropout(call(x))

    def _self_attn(self, call, x, pos_emb, mask):
        position = () if pos_emb is None else (pos_emb,)
        x_att = call(x, x, x, *position, mask)
        if self.concat_after:
            return self.concat_linear(torch.cat((x, x_att), dim=-1))
        return self.dropout(x_att)

    def _conv_module(self, call, x, pos_emb, mask):
        masked = {"mask_pad": mask} if self._conv_takes_mask else {}
        return self.dropout(call(x, **masked))

    def _feed_forward(self, call, x, pos_emb, mask):
        return self.ff_scale * self.dropout(call(x))
