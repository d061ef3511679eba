"""The one primitive for numbers that change with the update."""

import math
from collections.abc import Sequence
from itertools import pairwise


class Ramp:
    """A piecewise linear function of the update; constant before and after its points.

    Args:
        points: (update, value), by increasing update; of two points at the same update,
            the later one counts.

    Raises:
        ValueError: there is no point, or they are not in order.
    """

    def __init__(self, points: Sequence[tuple[float, float]]):
        if not points or any(a[0] > b[0] for a, b in pairwise(points)):
            raise ValueError(f"points={points} must be increasing in their updates.")
        self.points = tuple(points)

    def __call__(self, update: float) -> float:
        """The value at `update`."""
        if update < self.points[0][0]:
            return self.points[0][1]
        for (start, low), (end, high) in pairwise(self.points):
            if update < end:
                # A segment without length is never entered: no division by zero.
                return low + (high - low) * (update - start) / (end - start)
        return self.points[-1][1]

    def step(self, update: float) -> int:
        """The whole part of the value: a staircase."""
        # The small number keeps a boundary that rounding has moved where it belongs.
        return math.floor(self(update) + 1e-9)
