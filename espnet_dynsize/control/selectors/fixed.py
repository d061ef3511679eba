"""Baselines that choose layers without learning which."""

import torch

from espnet_dynsize.control.selectors.selector import Gates, LayerSelector, best_first
from espnet_dynsize.control.selectors.simple_top_k import falling_k
from espnet_dynsize.core.family import Family

GOLDEN_RATIO = (5**0.5 - 1) / 2


class FixedSelector(LayerSelector):
    """A ranking that is known from the start.

    Nothing is searched for in the search phase, but it is what it is with Simple-Top-k:
    the full network trains with a subnet of fewer and fewer layers, the worst dropped
    first. So selectors differ in the layers that they choose, and in nothing else.
    """

    def gates(
        self, update: int, search_updates: int, generator: torch.Generator
    ) -> Gates:
        k = falling_k(self, update, search_updates, step=1)
        values = torch.zeros(self.num_units)
        values[self.ranking()[:k]] = 1.0
        return Gates(k, values, hard=True)


class First(FixedSelector):
    """The lowest layers.

    With `skip_empty_blocks` and sizes of whole blocks, this is the aux-loss baseline:
    losses after lower blocks, cut there.
    """

    def ranking(self) -> list[int]:
        return list(range(self.num_units))


class Uniform(FixedSelector):
    """Layers spread evenly over depth, nested.

    Multiples of the golden ratio modulo 1 are spread evenly, however many are taken. A
    constant stride would not do: with four layers a block, every second layer is either
    all attention and feed-forward, or all of the others.
    """

    def ranking(self) -> list[int]:
        # Three-gap theorem: neighbours among the units whose place is below a bound
        # have at most three different distances, whatever the bound.
        places = [(GOLDEN_RATIO * i) % 1.0 for i in range(self.num_units)]
        return sorted(range(self.num_units), key=places.__getitem__)


class Random(FixedSelector):
    """A random nested choice, drawn from the run's seed."""

    def __init__(self, family: Family):
        super().__init__(family)
        # A buffer: the checkpoint says what was drawn.
        self.register_buffer("scores", torch.empty(self.num_units))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.scores.uniform_()

    def ranking(self) -> list[int]:
        return best_first(self.scores)
