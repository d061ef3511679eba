"""Blocks of layers that hand a context from one block of frames to the next one."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from espnet2.legacy.nets.pytorch_backend.conformer.contextual_block_encoder_layer import (  # noqa: E501
    ContextualBlockEncoderLayer as ConformerLayer,
)
from espnet2.legacy.nets.pytorch_backend.transformer.contextual_block_encoder_layer import (  # noqa: E501
    ContextualBlockEncoderLayer as TransformerLayer,
)

from espnet_dynsize.encoder.branches import (
    FeedForward,
    ScaledFeedForward,
    SelfAttention,
)
from espnet_dynsize.encoder.layers import Block


class BlockRows(NamedTuple):
    """The blocks of a batch, one after another: M rows.

    Args:
        utterance: The utterance that a row is of, [M].
        number: Its number in the utterance, [M].
        previous: The row whose context a row gets: the one before it, or itself where
            an utterance begins, [M].
        counts: Rows of each utterance.
    """

    utterance: torch.Tensor
    number: torch.Tensor
    previous: torch.Tensor
    counts: list[int]

    @classmethod
    def of(cls, counts: list[int], device: torch.device) -> "BlockRows":
        """The rows of utterances of so many blocks."""
        blocks = [(u, i) for u, count in enumerate(counts) for i in range(count)]
        previous = [row - (i > 0) for row, (_, i) in enumerate(blocks)]
        table = [[u, i, row] for (u, i), row in zip(blocks, previous)]
        return cls(*torch.tensor(table, device=device).T, counts)


class ContextualBlock(SelfAttention, Block):
    """Mixin for ESPnet's block of layers, whose last frame is the context."""

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None,
        infer_mode: bool = False,
        past_ctx: BlockRows | torch.Tensor | None = None,
        next_ctx: torch.Tensor | None = None,
        is_short_segment: bool = False,
        layer_idx: int = 0,
    ) -> tuple:
        """Encode like the stock block; returns what the next one takes.

        Args:
            x: Rows [M, L + 2, D], of which the first frame is the context that comes in
                and the last one what goes out; or whole utterances [B, T, D]. With
                `infer_mode`, in evaluation, [1, M, L + 2, D].
            mask: Of attention, of that shape with L + 2 in place of D, or [B, 1, T].
            infer_mode: One utterance is encoded chunk by chunk.
            past_ctx: What the rows are. With `infer_mode`, each block's context from
                the chunk before, [1, blocks, D].
            next_ctx: Each block's context for the next chunk, as far as it is known.
            is_short_segment: The rows are one utterance, without contexts.
            layer_idx: The block's number.
        """
        if self.training or not infer_mode:
            self.counts = None if past_ctx is None else past_ctx.counts
            x = self.add_layers(x, None, mask)
            if past_ctx is not None:
                x = torch.cat([x[past_ctx.previous, -1:], x[:, 1:]], dim=1)
            return x, mask, False, past_ctx, next_ctx, False, layer_idx + 1
        rows = None if mask is None else mask.flatten(0, 1)
        x = self.add_layers(x.flatten(0, 1), None, rows).unflatten(0, x.shape[:2])
        if not is_short_segment:
            if next_ctx is None:
                next_ctx = x.new_zeros(1, self.total_layer_num, x.size(-1))
            last = x[:, :, -1:]  # [1, M, 1, D]
            # As in training, an utterance's first block gets its own.
            first = last[:, 0] if past_ctx is None else past_ctx[:, layer_idx, None]
            x = torch.cat([torch.cat([first[None], last[:, :-1]], 1), x[:, :, 1:]], 2)
            next_ctx[:, layer_idx] = x[:, -1, -1]
        return x, mask, True, past_ctx, next_ctx, is_short_segment, layer_idx + 1


class ContextualConformerBlock(ScaledFeedForward, ContextualBlock, ConformerLayer):
    """ESPnet's Conformer block of blocks of frames, layer by layer."""

    norms = {
        "feed_forward_macaron": "norm_ff_macaron",
        "self_attn": "norm1",
        "conv_module": "norm_conv",
        "feed_forward": "norm2",
    }

    def _conv_module(
        self,
        call: Callable[..., torch.Tensor],
        x: torch.Tensor,
        pos_emb: torch.Tensor | None,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        if mask is not None and mask.size(1) > 1:
            # A frame is there if it asks or is asked.
            mask = mask.any(1, keepdim=True) | mask.any(2).unsqueeze(1)
        return self.dropout(call(x, mask_pad=mask if self.respect_lengths else None))


class ContextualTransformerBlock(FeedForward, ContextualBlock, TransformerLayer):
    """ESPnet's Transformer block of blocks of frames, layer by layer."""

    norms = {"self_attn": "norm1", "feed_forward": "norm2"}
