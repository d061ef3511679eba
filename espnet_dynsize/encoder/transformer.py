"""`dynsize_transformer`: ESPnet's Transformer encoder as a supernet."""

from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from espnet2.legacy.nets.pytorch_backend.transformer.encoder_layer import EncoderLayer

from espnet_dynsize.encoder.branches import FeedForward, SelfAttention
from espnet_dynsize.encoder.layers import Block
from espnet_dynsize.encoder.supernet import Supernet


class TransformerBlock(SelfAttention, FeedForward, Block, EncoderLayer):
    """ESPnet's Transformer block, layer by layer."""

    norms = {"self_attn": "norm1", "feed_forward": "norm2"}


class DynSizeTransformerEncoder(Supernet, TransformerEncoder):
    """ESPnet's Transformer encoder; a block has two layers."""

    block_class = TransformerBlock
