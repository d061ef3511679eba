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
        position = () if pos_emb is None else (pos_emb,)
        x_att = call(x, x, x, *position, mask)
        if self.concat_after:
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
        return self.ff_scale * self.dropout(call(x))

    _feed_forward_macaron = _feed_forward
