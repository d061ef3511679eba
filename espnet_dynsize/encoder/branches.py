"""The layers that several of ESPnet's blocks have alike."""

from collections.abc import Callable

import torch


class SelfAttention:
    """Mixin for a block with a layer `self_attn`."""

    def _self_attn(
        self,
        call: Callable[..., torch.Tensor],
        x: torch.Tensor,
        pos_emb: torch.Tensor | None,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        # Absolute positions have been added to x, and their attention takes none.
        position = () if pos_emb is None else (pos_emb,)
        x_att = call(x, x, x, *position, mask)
        if self.concat_after:
            # [n, T, 2D] -> [n, T, D], without dropout, as in the stock block.
            return self.concat_linear(torch.cat((x, x_att), dim=-1))
        return self.dropout(x_att)


class ScaledFeedForward:
    """Mixin for a block with one or two layers `ff_scale` times a feed-forward."""

    def _feed_forward(
        self,
        call: Callable[..., torch.Tensor],
        x: torch.Tensor,
        pos_emb: torch.Tensor | None,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        # ESPnet sets the scale when it builds the block (0.5 with `macaron_style`): it
        # stays where a subnet lacks the other feed-forward layer.
        return self.ff_scale * self.dropout(call(x))

    # The two differ in weights and norm only: `call` and the caller have these.
    _feed_forward_macaron = _feed_forward


class FeedForward:
    """Mixin for a block with one layer `feed_forward`."""

    def _feed_forward(
        self,
        call: Callable[..., torch.Tensor],
        x: torch.Tensor,
        pos_emb: torch.Tensor | None,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        # Without the mask: ESPnet's encoders never build blocks with `apply_ff_mask`.
        return self.dropout(call(x))
