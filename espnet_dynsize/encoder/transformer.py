"""`dynsize_transformer`: ESPnet's Transformer encoder as a supernet."""

from collections.abc import Callable

import torch
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from espnet2.legacy.nets.pytorch_backend.transformer.encoder_layer import EncoderLayer

from espnet_dynsize.encoder.branches import SelfAttention
from espnet_dynsize.encoder.layers import Block
from espnet_dynsize.encoder.supernet import Supernet


class TransformerBlock(SelfAttention, Block, EncoderLayer):
    """ESPnet's Transformer block, layer by layer."""

    norms = {"self_attn": "norm1", "feed_forward": "norm2"}

    def _feed_forward(
        self,
        call: Callable[..., torch.Tensor],
        x: torch.Tensor,
        pos_emb: torch.Tensor | None,
        mask: torch.Tensor | None,
    ):
        # Without the mask: ESPnet's encoder never builds blocks with `apply_ff_mask`.
        return self.dropout(call(x))


class DynSizeTransformerEncoder(Supernet, TransformerEncoder):
    """ESPnet's Transformer encoder; a block has two layers."""

    block_class = TransformerBlock
