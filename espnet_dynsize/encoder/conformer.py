"""`dynsize_conformer`: ESPnet's Conformer as a supernet."""

from collections.abc import Callable

import torch
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.legacy.nets.pytorch_backend.conformer.encoder_layer import EncoderLayer

from espnet_dynsize.encoder.branches import ScaledFeedForward, SelfAttention
from espnet_dynsize.encoder.layers import Block
from espnet_dynsize.encoder.norm import ConvNorm, set_conv_norm
from espnet_dynsize.encoder.supernet import Supernet


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
        # ESPnet's block knows whether its convolution wants the padding's mask: one of
        # a user's own may not.
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
        conv_norm: ConvNorm = "batch_norm",
        convolution_first: bool = False,
        **options,
    ):
        if convolution_first:
            # On the instance, before its blocks are built: the class keeps its own.
            self.block_class = ConvolutionFirstBlock
        super().__init__(input_size, **options)
        set_conv_norm(self.blocks, conv_norm)
