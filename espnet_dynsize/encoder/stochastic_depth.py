"""Stochastic depth that does not compute what it drops."""

from typing import NamedTuple

import torch


class Share(NamedTuple):
    """The sequences of a batch that go through a layer (arXiv 1603.09382).

    Args:
        rows: Their positions [n]; None: all.
        scale: What their output is multiplied with, 1 / (1 - p).
    """

    rows: torch.Tensor | None = None
    scale: float = 1.0

    @classmethod
    def draw(cls, x: torch.Tensor, p: float) -> "Share":
        """Drop each sequence of [B, T, D] with probability p."""
        if p == 0.0:
            return cls()
        # Drawn on the CPU, so that no device has to be waited for.
        rows = (torch.rand(x.size(0)) >= p).nonzero().flatten()
        return cls(rows.to(x.device), 1.0 / (1.0 - p))

    @property
    def any(self) -> bool:
        """Whether a sequence goes through at all."""
        return self.rows is None or len(self.rows) > 0

    def take(self, x: torch.Tensor) -> torch.Tensor:
        """The sequences of [B, …] that go through."""
        return x if self.rows is None else x[self.rows]

    def add(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Add the layer's output [n, T, D] to its sequences of [B, T, D]."""
        if self.rows is None:
            return x + y
        return x.index_add(0, self.rows, self.scale * y)
