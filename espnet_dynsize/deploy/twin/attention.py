"""Self-attention with one projection for queries, keys and values."""

import math
from typing import NamedTuple

import torch
from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
    LegacyRelPositionMultiHeadedAttention,
    MultiHeadedAttention,
    RelPositionMultiHeadedAttention,
)

from espnet_dynsize.core.errors import ConfigError


class Frames(NamedTuple):
    """What layers need to know of a batch besides its frames."""

    valid: torch.Tensor  # [B, T, 1], 1 = a frame, 0 = padding
    bias: torch.Tensor  # [B, 1, 1, T], 0 for a frame, very negative for padding
    positions: torch.Tensor | None  # [T', D] of relative positions


class Attention(torch.nn.Module):
    """ESPnet's `MultiHeadedAttention` of a sequence with itself.

    Args:
        stock: It, whose heads may be fewer than it was built with.
    """

    def __init__(self, stock: MultiHeadedAttention):
        super().__init__()
        self.size = stock.d_k
        self.heads = len(stock.linear_q.weight) // stock.d_k
        for norm in (stock.q_norm, stock.k_norm):
            if not isinstance(norm, torch.nn.Identity):
                raise ConfigError("encoder_conf: qk_norm is not for an export yet.")
        if getattr(stock, "zero_triu", False):
            raise ConfigError("encoder_conf: zero_triu is not for an export yet.")
        # Scores are divided by its root: so are the queries, once and for all.
        self.scale = 1 / math.sqrt(stock.d_k)
        parts = (stock.linear_q, stock.linear_k, stock.linear_v)
        scales = (self.scale, 1, 1)
        weight = torch.cat([p.weight.detach() * s for p, s in zip(parts, scales)])
        self.project = torch.nn.Linear(weight.size(1), len(weight))
        self.project.weight.data = weight
        self.project.bias.data = torch.cat(
            [p.bias.detach() * s for p, s in zip(parts, scales)]
        )
        self.out = stock.linear_out

    def forward(self, x: torch.Tensor, frames: Frames) -> torch.Tensor:
        """[B, T, D] of [B, T, D]."""
        batch, time = x.size(0), x.size(1)
        split = self.project(x).view(batch, time, 3, self.heads, self.size)
        # [3, B, H, T, d]
        queries, keys, values = split.permute(2, 0, 3, 1, 4).unbind(0)
        scores = self.scores(queries, keys.transpose(-1, -2), frames)
        weights = torch.softmax(scores + frames.bias, dim=-1)
        heard = (weights @ values).transpose(1, 2)  # [B, T, H, d]
        return self.out(heard.reshape(batch, time, self.heads * self.size))

    def scores(
        self, queries: torch.Tensor, keys: torch.Tensor, frames: Frames
    ) -> torch.Tensor:
        """[B, H, T, T] of queries [B, H, T, d] and keys [B, H, d, T]."""
        return queries @ keys


class RelativeAttention(Attention):
    """ESPnet's `RelPositionMultiHeadedAttention`.

    Args:
        stock: It.
    """

    def __init__(self, stock: RelPositionMultiHeadedAttention):
        super().__init__(stock)
        self.position = stock.linear_pos
        for name in ("pos_bias_u", "pos_bias_v"):
            bias = getattr(stock, name).detach() * self.scale  # [H, d]
            self.register_buffer(name, bias[:, None])

    def scores(self, queries, keys, frames):
        """See `Attention`; of a query and a key at a distance."""
        positions = self.position(frames.positions)  # [T', H · d]
        positions = positions.view(-1, self.heads, self.size).permute(1, 2, 0)
        distances = (queries + self.pos_bias_v) @ positions  # [B, H, T, T']
        return (queries + self.pos_bias_u) @ keys + self.shifted(distances)

    def shifted(self, x: torch.Tensor) -> torch.Tensor:
        """[B, H, T, T] by key, of [B, H, T, 2T - 1] by distance, the farthest first."""
        batch, heads, time, distances = x.size()
        x = torch.nn.functional.pad(x, (1, 0)).view(batch, heads, distances + 1, time)
        return x[:, :, 1:].reshape(batch, heads, time, distances)[..., :time]


class LegacyRelativeAttention(RelativeAttention):
    """ESPnet's `LegacyRelPositionMultiHeadedAttention`: it knows T positions only."""

    def shifted(self, x):
        """As ESPnet does it: later keys have what stands in the next row."""
        batch, heads, time, _ = x.size()
        x = torch.nn.functional.pad(x, (1, 0)).view(batch, heads, time + 1, time)
        return x[:, :, 1:]


ATTENTION = {
    MultiHeadedAttention: Attention,
    RelPositionMultiHeadedAttention: RelativeAttention,
    LegacyRelPositionMultiHeadedAttention: LegacyRelativeAttention,
}


def twin_attention(stock: torch.nn.Module) -> Attention:
    """The twin of an attention module.

    Raises:
        ConfigError: of another kind.
    """
    made = ATTENTION.get(type(stock))
    if made is None:
        raise ConfigError(
            f"{type(stock).__name__} is not for an export; selfattention_layer_type "
            "must be selfattn, rel_selfattn or legacy_rel_selfattn."
        )
    return made(stock)
