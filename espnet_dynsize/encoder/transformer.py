"""`dynsize_transformer`: ESPnet's Transformer encoder as a supernet."""

from collections.abc import Callable

import torch
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from espnet2.legacy.nets.pytorch_backend.transformer.encoder_layer import EncoderLayer

from espnet_dynsize.encoder.layers import Block
from espnet_dynsize.encoder.supernet import Supernet


class TransformerBlock(Block, EncoderLayer):
    """ESPnet's Transformer block, layer by layer."""

    norms = {"self_attn": "norm1", "feed_forward": "norm2"}

    def _self_attn(
        self,
        call: Callable[..., torch.Tensor],
        x: torch.Tensor,
        pos_emb: torch.Tensor | None,
        mask: torch.Tensor | None,
    ):
        x_att = call(x, x, x, mask)
        if self.concat_after:
            return self.concat_linear(torch.cat((x, x_att), dim=-1))
        return self.dropout(x_att)

    def _feed_forward(
        self,
        call: Callable[..., torch.Tensor],
        x: torch.Tensor,
        pos_emb: torch.Tensor | None,
        mask: torch.Tensor | None,
    ):
        return self.dropout(call(x))


class DynSizeTransformerEncoder(Supernet, TransformerEncoder):
    """ESPnet's Transformer encoder; a block has two layers."""

    block_class = TransformerBlock
