"""What a subnet costs, as a sum over its units."""

from collections.abc import Sequence
from dataclasses import dataclass

from espnet_dynsize.core.subnet import Subnet


@dataclass(frozen=True)
class CostModel:
    """Cost of every unit, and of what no subnet can drop.

    Args:
        units: Cost of each unit: parameters, FLOPs, or 1 where layers are counted.
        fixed: Cost of the rest of the encoder, in the same unit.
    """

    units: tuple[float, ...]
    fixed: float = 0.0

    @property
    def total(self) -> float:
        """Cost of the full network."""
        return self.fixed + sum(self.units)

    def cost(self, subnet: Subnet) -> float:
        """Cost of a subnet, `fixed` included."""
        return self.fixed + sum(self.units[unit] for unit in subnet.kept)

    def count(self, ranking: Sequence[int], budget: float) -> int:
        """How many units, best first, come closest to `budget`; at least one.

        Args:
            ranking: Unit numbers, best first.
            budget: Cost, `fixed` included.
        """
        spent, best, number = self.fixed, float("inf"), 1
        for position, unit in enumerate(ranking, 1):
            spent += self.units[unit]
            if abs(spent - budget) < best:  # of two equally close ones, the smaller
                best, number = abs(spent - budget), position
        return number
