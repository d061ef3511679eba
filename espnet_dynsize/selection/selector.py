"""The interface of everything that chooses layers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch


class Gates(NamedTuple):
    """What the gated subnet of one search update is made of."""

    k: int  # layers that it keeps
    values: torch.Tensor  # [L], multiply the layers' outputs
    penalty: torch.Tensor  # scalar, added to the loss


class LayerSelector(torch.nn.Module, ABC):
    """Turns learnable scores into gates while searching, and into masks afterwards.

    A selector knows the number of layers and the sizes, and nothing of encoders.

    Args:
        num_layers: L.
        sizes: Increasing numbers of layers; the last is L.
    """

    def __init__(self, num_layers: int, sizes: Sequence[int]):
        super().__init__()
        self.num_layers = num_layers
        self.sizes = tuple(sizes)

    @abstractmethod
    def gates(self, update: int, search_updates: int) -> Gates:
        """Gates for search update `update`, counted from 0."""

    @abstractmethod
    def masks(self) -> torch.Tensor:
        """The layers that each size keeps now, bool [len(sizes), L]."""
