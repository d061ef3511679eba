"""OrthoSoftmax (arXiv 2501.18895)."""

import math

import torch

from espnet_dynsize.control.ramp import Ramp
from espnet_dynsize.control.selectors.selector import Gates, LayerSelector
from espnet_dynsize.core.family import Family
from espnet_dynsize.core.schema import Fraction, NotNegative


def orthogonality_penalty(rows: torch.Tensor) -> torch.Tensor:
    """How far rows [k, N] are from different one-hot vectors: 0 where they are.

    sqrt(Σ_{i<j} (p_i·p_j)² + Σ_i (p_i·p_i - 1)²)
    """
    products = rows @ rows.T  # [k, k]
    apart = products.triu(diagonal=1).square().sum()
    one_hot = (products.diagonal() - 1.0).square().sum()
    # The square root has no finite slope at 0; below the bound there is no gradient.
    return (apart + one_hot).clamp_min(1e-12).sqrt()


class OrthoSoftmax(LayerSelector):
    """One softmax over the units for each rank; made for budgets and components.

    Row i of an N × N matrix says which unit is the i-th best. An update draws one of
    the smaller budgets, takes the rows whose expected cost comes closest, and gates
    every unit with the sum of its probabilities in these rows.

    Args:
        family: The sizes and the units' costs.
        final_temperature: The softmax's temperature falls exponentially from 1 to this
            over the search (published: 0.999992 an update, but at least 0.01).
        penalty_weight: Weight of the penalty at the end of the search; it rises
            linearly from 0.
        noise: Standard deviation of the initial scores: equal rows never part.
    """

    def __init__(
        self,
        family: Family,
        final_temperature: Fraction = 0.1,
        penalty_weight: NotNegative = 1.0,
        noise: NotNegative = 0.1,
    ):
        super().__init__(family)
        self.final_temperature = final_temperature
        self.penalty_weight = penalty_weight
        self.noise = noise
        shape = (self.num_units, self.num_units)
        self.scores = torch.nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.scores.normal_().mul_(self.noise)

    def gates(
        self, update: int, search_updates: int, generator: torch.Generator
    ) -> Gates:
        rows = self._best_rows(update, search_updates, generator)
        return Gates(len(rows), rows.sum(dim=0))

    def penalty(
        self, update: int, search_updates: int, generator: torch.Generator
    ) -> torch.Tensor:
        weight = Ramp([(0, 0.0), (search_updates, self.penalty_weight)])(update)
        rows = self._best_rows(update, search_updates, generator)
        return weight * orthogonality_penalty(rows)

    def _best_rows(
        self, update: int, search_updates: int, generator: torch.Generator
    ) -> torch.Tensor:
        """The rows [k, N] that the drawn budget pays for."""
        # Exponential in the update: linear in its logarithm.
        # The published rate gets to 0.01 after 576 thousand updates, too late for most
        # runs; so the end is given, and the rate follows.
        end = math.log(self.final_temperature)
        temperature = math.exp(Ramp([(0, 0.0), (search_updates, end)])(update))
        rows = (self.scores / temperature).softmax(dim=1)
        return rows[: self._rows_within(rows.detach(), self._draw_budget(generator))]

    def ranking(self) -> list[int]:
        """Each row's best unit that no row before it has taken."""
        ranking: list[int] = []
        for row in self.scores.detach().cpu().clone():
            # Rows may still agree on their best unit; a ranking has each unit once.
            row[ranking] = -torch.inf
            ranking.append(int(row.argmax()))
        return ranking

    def _draw_budget(self, generator: torch.Generator) -> float:
        # The full budget needs no choice.
        smaller = max(len(self.family.budgets) - 1, 1)
        drawn = torch.randint(smaller, (1,), generator=generator)
        return self.family.budgets[int(drawn)]

    def _rows_within(self, rows: torch.Tensor, budget: float) -> int:
        expected = rows @ rows.new_tensor(self.family.costs.units)
        # [k]: what the first 1, 2, … rows cost.
        spent = self.family.costs.fixed + expected.cumsum(0)
        return int((spent - budget).abs().argmin()) + 1
