"""The blocks of ESPnet's chunked encoder, layer by layer, whole or chunk by chunk."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from espnet2.asr_transducer.encoder.blocks.branchformer import Branchformer
from espnet2.asr_transducer.encoder.blocks.conformer import Conformer
from espnet2.asr_transducer.encoder.blocks.ebranchformer import EBranchformer

from espnet_dynsize.encoder.branches import ScaledFeedForward
from espnet_dynsize.encoder.layers import Block


class Seen(NamedTuple):
    """What a frame may attend to, for all utterances alike.

    Args:
        positions: Relative positions [1, 2 T - 1, D]; for a chunk, with those before.
        chunk_mask: [T, T], True = hidden; None: nothing is.
        left_context: Of a chunk, how many frames before it; None: whole utterances.
    """

    positions: torch.Tensor
    chunk_mask: torch.Tensor | None = None
    left_context: int | None = None


class ChunkedBlock(Block):
    """Mixin for ESPnet's blocks of layers that remember the chunk before.

    Attributes:
        cache: Name of a module → what it needs of the chunks before.
    """

    def forward(
        self,
        x: torch.Tensor,
        pos_enc: torch.Tensor,
        mask: torch.Tensor,
        chunk_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Encode whole utterances like the stock block.

        Args:
            x: [B, T, D].
            pos_enc: [1, 2 T - 1, D].
            mask: [B, T], True = padding.
            chunk_mask: [T, T], True = hidden.
        """
        return self.add_layers(x, Seen(pos_enc, chunk_mask), mask), mask, pos_enc

    def chunk_forward(
        self,
        x: torch.Tensor,
        pos_enc: torch.Tensor,
        mask: torch.Tensor,
        left_context: int = 0,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode the next chunk of an utterance like the stock block.

        Args:
            x: [1, T, D].
            pos_enc: [1, left_context + 2 T - 1, D].
            mask: [1, left_context + T], True = not there.
            left_context: Frames before the chunk that it attends to.
        """
        return self.add_layers(x, Seen(pos_enc, None, left_context), mask), pos_enc

    def reset_streaming_cache(self, left_context: int, device: torch.device) -> None:
        """Forget the utterance; see the stock block."""
        self.cache = {}

    def _self_att(
        self,
        call: Callable[..., torch.Tensor],
        x: torch.Tensor,
        seen: Seen,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        if seen.left_context is None:
            y = call(x, x, x, seen.positions, mask, seen.chunk_mask)
            return self.dropout(y)
        key, left = x, seen.left_context
        if left > 0:
            before = self.cache.get("self_att", x.new_zeros(1, left, x.size(-1)))
            key = torch.cat([before, x], dim=1)
            self.cache["self_att"] = key[:, -left:]
        return self.dropout(call(x, key, key, seen.positions, mask, None, left))

    def _convolve(
        self, name: str, x: torch.Tensor, seen: Seen, mask: torch.Tensor
    ) -> torch.Tensor:
        """What the block's module of that name makes of [B, T, channels]."""
        module = getattr(self, name)
        if seen.left_context is None:
            return module(x, mask=mask)[0]
        before = self.cache.get(name)
        if before is None:  # its padding
            depthwise = getattr(module, "depthwise_conv", None) or module.conv
            before = x.new_zeros(1, depthwise.in_channels, module.lorder)
        y, self.cache[name] = module(x, cache=before)
        return y


class _FeedForward(ScaledFeedForward):
    @property
    def ff_scale(self) -> float:
        """What ESPnet's other blocks call it."""
        return self.feed_forward_scale


class ChunkedConformerBlock(_FeedForward, ChunkedBlock, Conformer):
    """ESPnet's Conformer block of its chunked encoder."""

    norms = {
        "feed_forward_macaron": "norm_macaron",
        "self_att": "norm_self_att",
        "conv_mod": "norm_conv",
        "feed_forward": "norm_feed_forward",
    }

    def _conv_mod(
        self,
        call: Callable[..., torch.Tensor],
        x: torch.Tensor,
        seen: Seen,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        return self.dropout(self._convolve("conv_mod", x, seen, mask))


class _MergedBranch:
    """Attention and a gating MLP, which read the same x through norms of their own."""

    def _branches(
        self, x: torch.Tensor, seen: Seen, mask: torch.Tensor
    ) -> torch.Tensor:
        """Both one after the other, [B, T, 2 D]."""
        attended = self._self_att(self.self_att, self.norm_self_att(x), seen, mask)
        y = self.channel_proj1(self.norm_mlp(x))
        y = self.channel_proj2(self._convolve("conv_mod", y, seen, mask))
        return torch.cat([attended, self.dropout(y)], dim=-1)


class ChunkedBranchformerBlock(_MergedBranch, ChunkedBlock, Branchformer):
    """ESPnet's Branchformer block of its chunked encoder: one layer."""

    norms = {"merged_branch": None}

    def _merged_branch(
        self,
        call: Callable[..., torch.Tensor],
        x: torch.Tensor,
        seen: Seen,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        return self.dropout(self.merge_proj(self._branches(x, seen, mask)))


class ChunkedEBranchformerBlock(
    _FeedForward, _MergedBranch, ChunkedBlock, EBranchformer
):
    """ESPnet's E-Branchformer block of its chunked encoder."""

    norms = {
        "feed_forward_macaron": "norm_feed_forward_macaron",
        "merged_branch": None,
        "feed_forward": "norm_feed_forward",
    }

    def _merged_branch(
        self,
        call: Callable[..., torch.Tensor],
        x: torch.Tensor,
        seen: Seen,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        both = self._branches(x, seen, mask)
        # The convolution zeroes padded frames of what it is handed.
        return self.merge_proj(
            both + self._convolve("depthwise_conv_mod", both, seen, mask)
        )


BLOCKS = {
    Conformer: ChunkedConformerBlock,
    Branchformer: ChunkedBranchformerBlock,
    EBranchformer: ChunkedEBranchformerBlock,
}
