"""Simple-Top-k (arXiv 2407.18930, section 3.2)."""

import math
from collections.abc import Sequence

import torch

from espnet_dynsize.errors import ConfigError
from espnet_dynsize.selection.relaxed_top_k import (
    relaxed_top_k,
    straight_through_top_k,
)
from espnet_dynsize.selection.selector import Gates, LayerSelector

INITIAL_SCORE = 0.5
# Far below one optimiser step: it only decides between scores that are still equal.
TIE_BREAK = 1e-5


def annealed_k(
    update: int, search_updates: int, num_layers: int, smallest: int, step: int
) -> int:
    """Layers of the gated subnet at `update`: L - r, L - 2r, …, smallest.

    The search is cut into ceil((L - smallest) / r) equal parts; k falls by r from one
    to the next.

    Args:
        update: Counted from 0.
        search_updates: Length of the search in updates.
        num_layers: L.
        smallest: The smallest size.
        step: r.
    """
    parts = max(math.ceil((num_layers - smallest) / step), 1)
    part = min(update * parts // search_updates, parts - 1)
    return max(num_layers - step * (part + 1), smallest)


class SimpleTopK(LayerSelector):
    """One score a layer; the gated subnet is the relaxed top-k, k annealed.

    Args:
        num_layers: L.
        sizes: Increasing numbers of layers; the last is L.
        k_step: By how much k falls at a time (r in the paper).
        straight_through: Gates are a hard k-hot with the soft one's gradient (the
            paper's figure 1); else the soft k-hot itself.

    Raises:
        ConfigError: `k_step` is not between 1 and L.
    """

    def __init__(
        self,
        num_layers: int,
        sizes: Sequence[int],
        k_step: int = 1,
        straight_through: bool = True,
    ):
        super().__init__(num_layers, sizes)
        if not 1 <= k_step <= num_layers:
            raise ConfigError(
                f"selector_conf: k_step={k_step} must be between 1 and {num_layers}, "
                "the number of layers."
            )
        self.k_step = k_step
        self.straight_through = straight_through
        # Drawn from the run's seed: ties must not be broken by position.
        noise = TIE_BREAK * torch.rand(num_layers)
        self.scores = torch.nn.Parameter(INITIAL_SCORE + noise)

    def gates(self, update: int, search_updates: int) -> Gates:
        k = annealed_k(
            update, search_updates, self.num_layers, self.sizes[0], self.k_step
        )
        values = relaxed_top_k(self.scores, k)
        if self.straight_through:
            values = straight_through_top_k(values, k)
        return Gates(k, values, self.scores.new_zeros(()))

    def masks(self) -> torch.Tensor:
        """Top scores; the sizes are nested."""
        order = self.scores.detach().cpu().argsort(descending=True)
        masks = torch.zeros(len(self.sizes), self.num_layers, dtype=torch.bool)
        for mask, size in zip(masks, self.sizes):
            mask[order[:size]] = True
        return masks
