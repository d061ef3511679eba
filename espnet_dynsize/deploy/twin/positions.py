"""Positional encodings that are computed, for any length."""

import math

import torch
from espnet2.legacy.nets.pytorch_backend.transformer.embedding import (
    LegacyRelPositionalEncoding,
    PositionalEncoding,
    RelPositionalEncoding,
)

from espnet_dynsize.core.errors import ConfigError


def _absolute(frames: int, table: int) -> torch.Tensor:
    return torch.arange(frames)


def _relative(frames: int, table: int) -> torch.Tensor:
    return torch.arange(frames - 1, -frames, -1)


def _legacy(frames: int, table: int) -> torch.Tensor:
    # ESPnet takes the first rows of a table that ends at 0.
    steps = torch.arange(frames)
    return steps[-1:].clamp(min=table - 1) - steps


# ESPnet's class → the distances of a number of frames
_DISTANCES = {
    PositionalEncoding: _absolute,
    RelPositionalEncoding: _relative,
    LegacyRelPositionalEncoding: _legacy,
}


class Positions(torch.nn.Module):
    """ESPnet's positional encodings; x has been scaled before.

    Args:
        stock: One of them.

    Attributes:
        scale: What x has to be multiplied by.

    Raises:
        ConfigError: of another kind.
    """

    def __init__(self, stock: torch.nn.Module):
        super().__init__()
        if type(stock) not in _DISTANCES:
            raise ConfigError(
                f"{type(stock).__name__} is not for an export; pos_enc_layer_type must "
                "be abs_pos, rel_pos or legacy_rel_pos."
            )
        self.distances = _DISTANCES[type(stock)]
        self.table = stock.pe.size(1)
        # To be added to x, or for attention
        self.added = self.distances is _absolute
        self.scale, size = stock.xscale, stock.d_model
        steps = torch.arange(0, size, 2).float()
        self.register_buffer("rates", torch.exp(steps * -(math.log(10000.0) / size)))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """x [B, T, D], and what attention gets of positions [T', D]."""
        encoding = self.encoding(self.distances(x.size(1), self.table).to(x))
        return (x + encoding, None) if self.added else (x, encoding)

    def at(self, place: int) -> torch.Tensor:
        """[1, D] of one place."""
        return self.encoding(torch.ones_like(self.rates[:1]) * place)

    def encoding(self, places: torch.Tensor) -> torch.Tensor:
        """[N, D] of places [N]."""
        angles = places[:, None] * self.rates
        # Sines and cosines take turns along D.
        return torch.stack([torch.sin(angles), torch.cos(angles)], -1).flatten(1)
