"""The interface of everything that chooses layers."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch

from espnet_dynsize.core.family import Family


class Gates(NamedTuple):
    """What the gated subnet of one search update is made of."""

    k: int  # units that it keeps
    values: torch.Tensor  # [N], multiply the units' outputs
    hard: bool = False  # every value is exactly 0 or 1


class LayerSelector(torch.nn.Module, ABC):
    """Turns learnable scores into gates while searching, and into masks afterwards.

    A selector knows the units' costs and the sizes, and nothing of encoders. A unit is
    a layer or, with `granularity: component`, a part of one.

    Args:
        family: The sizes and the units' costs.
    """

    def __init__(self, family: Family):
        super().__init__()
        self.family = family
        self.num_units = family.num_units

    def reset_parameters(self) -> None:
        """Set parameters and buffers to what they are before the search.

        Call it at the end of `__init__`; it is called again after ESPnet's `init`,
        which knows nothing of scores, and after `--init_param`.
        """

    def begin_update(self, update: int, search_updates: int) -> None:
        """Called once before search update `update`, counted from 0."""

    @abstractmethod
    def gates(
        self, update: int, search_updates: int, generator: torch.Generator
    ) -> Gates:
        """Gates for search update `update`, counted from 0.

        Args:
            update: Number of the update, from 0 to `search_updates` - 1.
            search_updates: Length of the search.
            generator: For random draws: the same on every rank and in a resumed run.
        """

    def penalty(
        self, update: int, search_updates: int, generator: torch.Generator
    ) -> torch.Tensor | float:
        """What an update with gates adds to the loss; arguments are those of `gates`.

        The generator is in the state in which `gates` gets it: equal draws are equal.
        """
        return 0.0

    @abstractmethod
    def ranking(self) -> list[int]:
        """All units, best first, as they rank now."""

    def masks(self) -> torch.Tensor:
        """The units that each size keeps now, bool [len(sizes), N]."""
        return self.family.masks(self.ranking())


def best_first(scores: torch.Tensor) -> list[int]:
    """Positions of the scores [N], highest first."""
    # Stable: every rank and every device breaks ties alike.
    return scores.detach().cpu().argsort(descending=True, stable=True).tolist()
