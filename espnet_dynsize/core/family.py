"""The sizes of a family, as numbers of layers or as budgets."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from espnet_dynsize.core.cost import CostModel
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.keys import budget_sizes
from espnet_dynsize.core.subnet import FULL, Subnet


@dataclass(frozen=True)
class Family:
    """Sizes, and what each may cost.

    Args:
        sizes: Increasing names of the sizes: layer counts, or per cent of a budget.
        budgets: What each size may cost; the last allows everything.
        costs: Cost of each unit (a layer, or a component of one), in the unit of
            `budgets`. Where sizes are layer counts, every layer costs 1.
    """

    sizes: tuple[int, ...]
    budgets: tuple[float, ...]
    costs: CostModel

    @property
    def num_units(self) -> int:
        return len(self.costs.units)

    def head(self, index: int) -> str:
        """Whose norm statistics the size at `index` uses."""
        return FULL if index == len(self.sizes) - 1 else str(self.sizes[index])

    @property
    def full(self) -> Subnet:
        """The subnet that keeps everything."""
        return Subnet((True,) * self.num_units)

    def masks(self, ranking: Sequence[int]) -> torch.Tensor:
        """Bool [len(sizes), N]: the best units within each budget; nested."""
        masks = torch.zeros(len(self.sizes), self.num_units, dtype=torch.bool)
        for mask, budget in zip(masks, self.budgets):
            mask[list(ranking)[: self.costs.count(ranking, budget)]] = True
        # Rounding of costs must not drop a unit of the full size.
        masks[-1] = True
        return masks

    def misfit(self, masks: torch.Tensor) -> str | None:
        """What is wrong with masks out of a checkpoint, None where they are a family's.

        Args:
            masks: Shape [len(sizes), N].
        """
        if not ((masks == 0) | (masks == 1)).all():
            return "holds something else than 0 and 1"
        if (masks[:-1] > masks[1:]).any():
            return "holds masks that are not nested"
        if not masks[-1].all():
            return "drops units of the full size"
        kept = masks.long().sum(dim=1).tolist()
        if kept[0] == 0:
            return "keeps no unit of the smallest size"
        # Sizes that are numbers of layers
        if set(self.costs.units) == {1.0} and kept != list(self.sizes):
            return f"keeps {kept} layers in sizes {list(self.sizes)}"
        return None


def family_of_counts(sizes: Sequence[int], num_layers: int) -> Family:
    """Family whose sizes are numbers of layers.

    Raises:
        ConfigError: they are not increasing numbers from 1 to `num_layers`.
    """
    sizes = check_sizes(sizes, num_layers)
    return Family(sizes, tuple(map(float, sizes)), CostModel((1.0,) * num_layers))


def check_sizes(sizes: Sequence[int], num_layers: int) -> tuple[int, ...]:
    """Return `sizes` as a tuple.

    Raises:
        ConfigError: they are not increasing numbers from 1 to `num_layers`.
    """
    text = f"sizes={sizes}"
    if not isinstance(sizes, list | tuple):
        raise ConfigError(f"{text} must be a list of numbers of layers.")
    if not sizes or any(type(s) is not int or s < 1 for s in sizes):
        raise ConfigError(f"{text} must be whole numbers of layers, each at least 1.")
    if list(sizes) != sorted(set(sizes)):
        raise ConfigError(f"{text} must be increasing.")
    if sizes[-1] != num_layers:
        raise ConfigError(
            f"{text} must end with the full size, {num_layers}: the number of layers."
        )
    return tuple(sizes)


def family_of_budgets(
    kind: str, fractions: Sequence[float], costs: CostModel
) -> Family:
    """Family whose sizes are budgets, named by their per cent of the full cost.

    Args:
        kind: What is counted; for messages.
        fractions: Increasing parts of the full cost, ending with 1.
        costs: What the units cost.

    Raises:
        ConfigError: the fractions are not increasing parts up to 1, or the smallest
            one buys no layer.
    """
    text = f"budgets: {kind}={fractions}"
    if not isinstance(fractions, list | tuple):
        raise ConfigError(f"{text} must be a list of numbers above 0, up to 1.")
    if not fractions or any(
        isinstance(f, bool) or not isinstance(f, int | float) or not 0 < f <= 1
        for f in fractions
    ):
        raise ConfigError(f"{text} must be numbers above 0, up to 1.")
    sizes = budget_sizes(fractions)
    if sizes != sorted(set(sizes)) or fractions[-1] != 1:
        raise ConfigError(
            f"{text} must be increasing, at least 0.01 apart, and end with 1."
        )
    # Below it, every ranking would give the same one unit, under a wrong name.
    least = (costs.fixed + min(costs.units)) / costs.total
    if fractions[0] < least:
        raise ConfigError(
            f"{text}: the smallest must be at least {least:.3f}, which is what the "
            "front-end and one layer cost."
        )
    return Family(tuple(sizes), tuple(f * costs.total for f in fractions), costs)
