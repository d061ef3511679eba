"""Stochastic depth that does not compute what it drops."""

from collections.abc import Sequence
from typing import NamedTuple

import torch


class Rows(NamedTuple):
    """The sequences of a batch that go through a layer (arXiv 1603.09382).

    Args:
        index: Their positions [n]; None: all.
        scale: What their output is multiplied with, 1 / (1 - p).
    """

    index: torch.Tensor | None = None
    scale: float = 1.0

    @classmethod
    def draw(
        cls, x: torch.Tensor, p: float, counts: Sequence[int] | None = None
    ) -> "Rows":
        """Drop each sequence of [B, T, D] with probability p.

        Args:
            x: The sequences.
            p: The probability.
            counts: So many of them, one after another, are one utterance, and are
                dropped together; None: each is one.
        """
        if p == 0.0:
            return cls()
        # Drawn on the CPU, so that no device has to be waited for.
        kept = torch.rand(x.size(0) if counts is None else len(counts)) >= p
        if counts is not None:
            kept = kept.repeat_interleave(torch.tensor(counts))
        index = kept.nonzero().flatten()
        # Scaled, so that on average the layer adds what it adds in evaluation.
        return cls(index.to(x.device), 1.0 / (1.0 - p))

    @property
    def any(self) -> bool:
        """Whether a sequence goes through at all."""
        return self.index is None or len(self.index) > 0

    def take(self, x: torch.Tensor | None) -> torch.Tensor | None:
        """The sequences of [B, …] that go through; None stays None."""
        return x if self.index is None or x is None else x[self.index]

    def add(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Add the layer's output [n, T, D] to its sequences of [B, T, D]."""
        if self.index is None:
            return x + y
        # Autocast leaves norms in float32 and matrix products in half precision, and
        # unlike a sum, `index_add` takes one type only.
        dtype = torch.promote_types(x.dtype, y.dtype)
        return x.to(dtype).index_add(0, self.index, (self.scale * y).to(dtype))
