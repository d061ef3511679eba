"""`dynsize_conformer`: ESPnet's Conformer as a supernet."""

from collections.abc import Callable

import torch
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.legacy.nets.pytorch_backend.conformer.encoder_layer import EncoderLayer

from espnet_dynsize.core.errors import check
from espnet_dynsize.encoder.branches import ScaledFeedForward, SelfAttention
from espnet_dynsize.encoder.layers import Block
from espnet_dynsize.encoder.norm import ChannelLayerNorm
from espnet_dynsize.encoder.supernet import Supernet

CONV_NORMS = ("batch_norm", "layer_norm")


class ConformerBlock(SelfAttention, ScaledFeedForward, Block, EncoderLayer):
    """ESPnet's Conformer block, layer by layer."""

    norms = {
        "feed_forward_macaron": "norm_ff_macaron",
        "self_attn": "norm_mha",
        "conv_module": "norm_conv",
        "feed_forward": "norm_ff",
    }

    def _conv_module(
        self,
        call: Callable[..., torch.Tensor],
        x: torch.Tensor,
        pos_emb: torch.Tensor | None,
        mask: torch.Tensor | None,
    ):
        # ESPnet's block knows whether its convolution wants the padding's mask.
        masked = {"mask_pad": mask} if self._conv_takes_mask else {}
        return self.dropout(call(x, **masked))


class ConvolutionFirstBlock(ConformerBlock):
    """Conformer block whose convolution comes before the attention, as published."""

    norms = {
        "feed_forward_macaron": "norm_ff_macaron",
        "conv_module": "norm_conv",
        "self_attn": "norm_mha",
        "feed_forward": "norm_ff",
    }


class DynSizeConformerEncoder(Supernet, ConformerEncoder):
    """ESPnet's Conformer; a block has up to four layers.

    Args:
        input_size: Feature dimension.
        conv_norm: Norm in the convolution module: `batch_norm`, with statistics per
            size, or `layer_norm`, as published, with which any subnet computes without
            calibration.
        convolution_first: The convolution module comes before the attention, as in
            arXiv 2407.18930; ESPnet has it after.
        **options: Options of `Supernet` and of `ConformerEncoder`.

    Raises:
        ConfigError: a value is not allowed.
    """

    block_class = ConformerBlock

    def __init__(
        self,
        input_size: int,
        conv_norm: str = "batch_norm",
        convolution_first: bool = False,
        **options,
    ):
        if convolution_first:
            self.block_class = ConvolutionFirstBlock
        allowed = f"one of {list(CONV_NORMS)}"
        check(conv_norm in CONV_NORMS, "conv_norm", conv_norm, allowed)
        super().__init__(input_size, **options)
        for block in self.blocks if conv_norm == "layer_norm" else []:
            if block.conv_module is not None:
                channels = block.conv_module.norm.num_features
                block.conv_module.norm = ChannelLayerNorm(channels)
