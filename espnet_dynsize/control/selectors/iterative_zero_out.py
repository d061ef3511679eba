"""Iterative-Zero-Out (arXiv 2407.18930, section 3.1)."""

import torch

from espnet_dynsize.control.ramp import Ramp
from espnet_dynsize.control.selectors.selector import Gates, LayerSelector
from espnet_dynsize.core.errors import check
from espnet_dynsize.core.family import Family
from espnet_dynsize.core.schema import Count, NotNegative, Positive

# Far below one optimiser step: it only decides between scores that are still equal.
TIE_BREAK = 1e-5


class IterativeZeroOut(LayerSelector):
    """Sigmoid gates, pushed down a step at a time by a sparsity loss.

    The search is cut into iterations. The loss of iteration i asks for the share of
    the cost to be removed by its end; then the lowest scores that make up this share
    are set to `zero_score`, except after the last iteration, where the ranking is read.
    A unit set to zero may recover; if it does not, it ranks below all that were set to
    zero later (the paper ranks by score alone).

    Args:
        family: The sizes and the units' costs.
        iterations: Number of iterations; published: 8.
        first_iteration: Length of the first iteration, where the others have length 1.
        sparsity_weight: Weight of the sparsity loss.
        initial_score: Scores in the beginning. From the published 10 a score needs
            thousands of updates to get near 0; take less in short runs.
        zero_score: Score of a unit that is set to zero.

    Raises:
        ConfigError: `zero_score` is not below `initial_score`.
    """

    def __init__(
        self,
        family: Family,
        iterations: Count = 8,
        first_iteration: Positive = 1.0,
        sparsity_weight: NotNegative = 5.0,
        initial_score: float = 10.0,
        zero_score: float = -5.0,
    ):
        super().__init__(family)
        check(
            zero_score < initial_score,
            "selector_conf: zero_score",
            zero_score,
            f"below initial_score={initial_score}",
        )
        self.iterations = iterations
        self.first_iteration = first_iteration
        self.sparsity_weight = sparsity_weight
        self.initial_score, self.zero_score = initial_score, zero_score
        self.scores = torch.nn.Parameter(torch.empty(self.num_units))
        # The iteration, from 1, in which a unit was set to zero; 0: it was not.
        self.register_buffer("zeroed_in", torch.zeros(self.num_units))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.scores.uniform_(self.initial_score, self.initial_score + TIE_BREAK)
        self.zeroed_in.zero_()

    def iteration(self, update: int, search_updates: int) -> int:
        """The iteration of an update; both are counted from 0."""
        # Published for two sizes on TED-LIUM: 45 + 7 · 15 sub-epochs, so first = 3.
        first, rest = self.first_iteration, self.iterations - 1
        first_end = search_updates * first / (first + rest)
        ramp = Ramp([(0, 0), (first_end, 1), (search_updates, 1 + rest)])
        return min(ramp.step(update), rest)

    def budget(self, iteration: int) -> float:
        """The cost that may be left after `iteration`, counted from 0."""
        total, least = self.family.costs.total, self.family.budgets[0]
        return total - (total - least) * (iteration + 1) / self.iterations

    def begin_update(self, update: int, search_updates: int) -> None:
        now = self.iteration(update, search_updates)
        if update > 0 and now != self.iteration(update - 1, search_updates):
            # The iteration that has just ended.
            self._zero_out(now - 1)

    def gates(
        self, update: int, search_updates: int, generator: torch.Generator
    ) -> Gates:
        budget = self.budget(self.iteration(update, search_updates))
        k = self.family.costs.count(self.ranking(), budget)
        # All units compute; k says which ones stochastic depth may drop.
        return Gates(k, self.scores.sigmoid())

    def penalty(
        self, update: int, search_updates: int, generator: torch.Generator
    ) -> torch.Tensor:
        """sparsity_weight · |removed share of the cost − share to be removed|."""
        # Published with every cost 1: 5 · |(L - Σ gates) / L - n_i / L|.
        costs = self.scores.new_tensor(self.family.costs.units)
        removed = (costs * (1.0 - self.scores.sigmoid())).sum() / costs.sum()
        budget = self.budget(self.iteration(update, search_updates))
        target = (self.family.costs.total - budget) / float(costs.sum())
        return self.sparsity_weight * (removed - target).abs()

    def ranking(self) -> list[int]:
        """Units never set to zero by score, then those set to zero, latest first."""
        scores, zeroed = self.scores.tolist(), self.zeroed_in.tolist()

        def key(unit: int) -> tuple:
            return (zeroed[unit] == 0, zeroed[unit], scores[unit])

        return sorted(range(self.num_units), key=key, reverse=True)

    @torch.no_grad()
    def _zero_out(self, iteration: int) -> None:
        by_score = self.scores.cpu().argsort(descending=True, stable=True).tolist()
        keep = self.family.costs.count(by_score, self.budget(iteration))
        # By score alone, as published: a unit that has recovered is in again.
        out = torch.zeros_like(self.zeroed_in, dtype=torch.bool)
        out[by_score[keep:]] = True
        self.scores[out] = self.zero_score
        # The first time counts: it tells how early a unit could be spared.
        self.zeroed_in[out & (self.zeroed_in == 0)] = iteration + 1
        self.zeroed_in[~out] = 0
