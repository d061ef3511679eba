"""`dynsize_e_branchformer`: ESPnet's E-Branchformer as a supernet."""

from collections.abc import Callable

import torch
from espnet2.asr.encoder.e_branchformer_encoder import (
    EBranchformerEncoder,
    EBranchformerEncoderLayer,
)
from espnet2.asr.layers.fastformer import FastSelfAttention
from espnet2.legacy.nets.pytorch_backend.conformer.convolution import (
    mask_padded_frames,
)

from espnet_dynsize.encoder.branches import ScaledFeedForward
from espnet_dynsize.encoder.layers import Block
from espnet_dynsize.encoder.supernet import Supernet


class EBranchformerBlock(ScaledFeedForward, Block, EBranchformerEncoderLayer):
    """ESPnet's E-Branchformer block, layer by layer."""

    norms = {
        "feed_forward_macaron": "norm_ff_macaron",
        "merged_branch": None,
        "feed_forward": "norm_ff",
    }

    def _merged_branch(
        self,
        call: Callable[..., torch.Tensor],
        x: torch.Tensor,
        pos_emb: torch.Tensor | None,
        mask: torch.Tensor | None,
    ):
        # Attention and gating MLP read the same x, each through a norm of its own.
        # `call` is for modules that may lose heads or chunks; this layer is one unit.
        branches = torch.cat(
            [self._attention(x, pos_emb, mask), self._gating_mlp(x, mask)], dim=-1
        )  # [n, T, 2D]
        # The convolution runs along time: padded frames must not leak into valid ones.
        fused = mask_padded_frames(branches.transpose(1, 2), mask)
        fused = self.depthwise_conv_fusion(fused).transpose(1, 2)  # [n, T, 2D]
        return self.dropout(self.merge_proj(branches + fused))

    def _attention(
        self, x: torch.Tensor, pos_emb: torch.Tensor | None, mask: torch.Tensor | None
    ):
        x = self.norm_mha(x)
        if isinstance(self.attn, FastSelfAttention):
            # Fastformer's attention takes x once, and no relative positions.
            return self.dropout(self.attn(x, mask))
        position = () if pos_emb is None else (pos_emb,)
        return self.dropout(self.attn(x, x, x, *position, mask))

    def _gating_mlp(self, x: torch.Tensor, mask: torch.Tensor | None):
        # The stock block hands over (x, positions), and gets both back unused.
        return self.dropout(self.cgmlp(self.norm_mlp(x), mask))


class DynSizeEBranchformerEncoder(Supernet, EBranchformerEncoder):
    """ESPnet's E-Branchformer; a block has its merged branch, with `use_ffn` a
    feed-forward layer, and with `macaron_ffn` another one.
    """

    block_class = EBranchformerBlock
