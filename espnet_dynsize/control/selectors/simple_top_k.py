"""Simple-Top-k (arXiv 2407.18930, section 3.2)."""

import math

import torch

from espnet_dynsize.control.ramp import Ramp
from espnet_dynsize.control.selectors.relaxed_top_k import (
    relaxed_top_k,
    straight_through_top_k,
)
from espnet_dynsize.control.selectors.selector import Gates, LayerSelector, best_first
from espnet_dynsize.core.errors import check
from espnet_dynsize.core.family import Family
from espnet_dynsize.core.schema import Count

INITIAL_SCORE = 0.5
# Far below one optimiser step: it only decides between scores that are still equal.
TIE_BREAK = 1e-5


def annealed_k(
    update: int, search_updates: int, num_units: int, smallest: int, step: int
) -> int:
    """Units of the gated subnet at `update`: L - r, L - 2r, …, smallest.

    The search is cut into ceil((L - smallest) / r) equal parts; k falls by r from one
    to the next.

    Args:
        update: Counted from 0.
        search_updates: Length of the search in updates.
        num_units: L.
        smallest: Units of the smallest size.
        step: r.
    """
    # L = 48, smallest 12, r = 12: three parts with k = 36, 24, 12.
    parts = max(math.ceil((num_units - smallest) / step), 1)
    part = min(Ramp([(0, 0), (search_updates, parts)]).step(update), parts - 1)
    return max(num_units - step * (part + 1), smallest)


def falling_k(
    selector: LayerSelector, update: int, search_updates: int, step: int
) -> int:
    """`annealed_k` down to the smallest size, of the units that rank best now."""
    # With budgets, how many units that is depends on which are best.
    family = selector.family
    smallest = family.costs.count(selector.ranking(), family.budgets[0])
    return annealed_k(update, search_updates, selector.num_units, smallest, step)


class SimpleTopK(LayerSelector):
    """One score a unit; the gated subnet keeps the k units with the best scores.

    k falls over the search from almost all units to those of the smallest size. Gates
    are exactly 0 or 1, with the gradient of soft ones (the paper's figure 1).

    Args:
        family: The sizes and the units' costs.
        k_step: By how many units k falls at a time (r in the paper).

    Raises:
        ConfigError: `k_step` is not between 1 and the number of units.
    """

    def __init__(self, family: Family, k_step: Count = 1):
        super().__init__(family)
        allowed = f"between 1 and {self.num_units}, the number of layers"
        check(k_step <= self.num_units, "selector_conf: k_step", k_step, allowed)
        self.k_step = k_step
        self.scores = torch.nn.Parameter(torch.empty(self.num_units))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        # Drawn from the run's seed: ties must not be broken by position.
        self.scores.uniform_(INITIAL_SCORE, INITIAL_SCORE + TIE_BREAK)

    def gates(
        self, update: int, search_updates: int, generator: torch.Generator
    ) -> Gates:
        k = falling_k(self, update, search_updates, self.k_step)
        values = straight_through_top_k(relaxed_top_k(self.scores, k), k)
        return Gates(k, values, hard=True)

    def ranking(self) -> list[int]:
        """Units by score; the sizes are nested."""
        return best_first(self.scores)
