"""Selection: the controller that searches for layers and then fixes every size's."""

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated

import torch

from espnet_dynsize.control.controller import Controller
from espnet_dynsize.control.selectors.selector import Gates, LayerSelector
from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.core.schema import Positive, Range, Share
from espnet_dynsize.core.subnet import Subnet

UNSET = math.nan
SEARCH_FRACTION = 0.6
Updates = Annotated[int, Range(0)]


class Phase(IntEnum):
    """`SEARCH`: scores are learned. `JOINT`: masks are fixed, all sizes train."""

    SEARCH = 0
    JOINT = 1


@dataclass(frozen=True)
class Search:
    """How long the search is, and how fast scores learn in it.

    Args:
        search_fraction: Part of the run that is search. Left out: 0.6.
        search_updates: Length of the search in updates, instead of the fraction.
        score_lr: Learning rate of the scores, relative to that of the weights. In a
            search of about a thousand updates, `iterative_zero_out` and `ortho_softmax`
            need more than 1.

    Raises:
        ConfigError: both lengths are given.
    """

    search_fraction: Share | None = None
    search_updates: Updates | None = None
    score_lr: Positive = 1.0

    def __post_init__(self):
        both = None not in (self.search_fraction, self.search_updates)
        allowed = f"left out with search_updates={self.search_updates}"
        key = "selector_conf: search_fraction"
        check(not both, key, self.search_fraction, allowed)

    @property
    def fraction(self) -> float:
        """Part of the run that is search, where no number of updates is given."""
        given = self.search_fraction
        return SEARCH_FRACTION if given is None else given

    def length(self, total_updates: int | None) -> int:
        """Updates of search in a run of `total_updates` (None: unknown).

        Raises:
            ConfigError: the search does not fit into the run.
        """
        updates = self.search_updates
        if updates is None:
            if total_updates is None:
                raise ConfigError(
                    f"selector_conf: search_fraction={self.fraction} needs a "
                    "run of known length; give search_updates with this iterator."
                )
            updates = round(self.fraction * total_updates)
        if total_updates is not None and updates >= total_updates:
            raise ConfigError(
                f"selector_conf: search_updates={updates} must be less than the run's "
                f"{total_updates} updates."
            )
        return updates


def check_search_fits(
    search: int, total_updates: int | None, option: str, source: str
) -> None:
    """Refuse to resume a search that would not end within the run.

    Args:
        search: Its last update, which is in the checkpoint; or that in which the last
            sparsity is final.
        total_updates: Those of the run; None: unknown.
        option: What sets them, for the message.
        source: What is resumed, for the message.

    Raises:
        ConfigError: it would not.
    """
    if total_updates is not None and search >= total_updates:
        raise ConfigError(
            f"{option} gives {total_updates} updates, but the family of {source} is "
            f"chosen in the first {search}; give more epochs."
        )


class Selection(Controller):
    """Phase, gates and masks, all functions of tensors in the checkpoint.

    The masks are unset (NaN) while searching; so an average that has seen a checkpoint
    of the search is recognised as unusable.

    Args:
        selector: Chooses the layers.
        search: Length of the search.
        gate_every: While searching, the gated subnet trains in every n-th update; the
            selector's penalty counts n-fold there.
    """

    def __init__(
        self, selector: LayerSelector, search: Search | None = None, gate_every: int = 1
    ):
        super().__init__()
        self.selector = selector
        self.family = selector.family
        self.search = search or Search()
        self.gate_every = gate_every
        shape = (len(self.family.sizes), selector.num_units)
        # [sizes, units] of 0 and 1; floats, so that averages keep them exactly.
        self.register_buffer("fixed_masks", torch.full(shape, UNSET))
        # In the checkpoint: a run that is resumed for more epochs keeps its search.
        self.register_buffer("search_updates", torch.full((), UNSET))

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.family.sizes

    @property
    def phase(self) -> Phase:
        masks = self.read("fixed_masks")
        # One NaN is enough: an average of a search epoch and joint ones.
        unset = any(math.isnan(kept) for row in masks for kept in row)
        return Phase.SEARCH if unset else Phase.JOINT

    @property
    def planned(self) -> bool:
        """Whether the length of the search is fixed."""
        return not math.isnan(self.read("search_updates"))

    def plan(self, total_updates: int | None) -> None:
        """Fix the length of the search for a run of `total_updates` (None: unknown).

        Raises:
            ConfigError: the search does not fit into the run.
        """
        self.search_updates.fill_(self.search.length(total_updates))

    def reset(self) -> None:
        self.fixed_masks.fill_(UNSET)
        self.search_updates.fill_(UNSET)
        self.selector.reset_parameters()

    def misfit(self, name: str, value: torch.Tensor) -> str | None:
        """See `Counters.misfit`; unset is all NaN, and masks are the family's."""
        if value.isnan().all():
            return None
        if name == "fixed_masks":
            return self.family.misfit(value)
        return super().misfit(name, value)

    @property
    def final(self) -> bool:
        return self.phase is Phase.JOINT

    @property
    def last_decision(self) -> int:
        return int(self.read("search_updates")) if self.planned else 0

    def begin_update(self, update: int, generator: torch.Generator) -> None:
        """The first update after the search fixes the masks."""
        if self.phase is Phase.JOINT:
            return
        if not self.planned:
            raise RuntimeError("Selection.plan() comes before training.")
        # Fixed before the update's first batch: the same masks on every rank.
        if update > self.read("search_updates"):
            self.fixed_masks.copy_(self.selector.masks())
        else:
            # Updates of a run count from 1, those of a search from 0.
            self.selector.begin_update(update - 1, self._length())

    def gates_train(self, update: int) -> bool:
        """Whether the gated subnet trains in this update of the search."""
        # The first update is one of them: the search is never without gates.
        return (update - 1) % self.gate_every == 0

    def gates(self, update: int, generator: torch.Generator) -> Gates:
        """Gates of this update of the search."""
        return self.selector.gates(update - 1, self._length(), generator)

    def penalty(self, update: int, generator: torch.Generator) -> torch.Tensor | float:
        if self.phase is Phase.JOINT or not self.gates_train(update):
            return 0.0
        penalty = self.selector.penalty(update - 1, self._length(), generator)
        # As much over the run as in every update.
        return self.gate_every * penalty

    def masks(self) -> torch.Tensor:
        """Bool [len(sizes), N]: the fixed masks, or what the scores say so far."""
        if self.phase is Phase.SEARCH:
            return self.selector.masks()
        return torch.tensor(self.read("fixed_masks")) > 0.5

    def subnet(self, size: int) -> Subnet:
        """The subnet of a size.

        Raises:
            ConfigError: `size` is not in the family, or has no fixed mask yet.
        """
        # True == 1: it would pass as size 1.
        if type(size) is bool or size not in self.sizes:
            raise ConfigError(f"size={size} must be one of {list(self.sizes)}.")
        index = self.sizes.index(size)
        # The full size needs no mask.
        if self.phase is Phase.SEARCH and size != self.sizes[-1]:
            raise ConfigError(
                f"size={size} has no layers yet: the checkpoint is from the search "
                "phase, or an average with one; use a joint-phase checkpoint."
            )
        return Subnet(tuple(self.masks()[index].tolist()), self.family.head(index))

    def subnets(self) -> list[Subnet]:
        """Every size's, smallest first; they may still change while searching.

        While searching, smaller sizes use the statistics of the gated subnet.
        """
        # The sizes between have none yet.
        search, last = self.phase is Phase.SEARCH, len(self.sizes) - 1
        return [
            Subnet(tuple(mask), self.family.head(0 if search and i < last else i))
            for i, mask in enumerate(self.masks().tolist())
        ]

    def _length(self) -> int:
        return max(int(self.read("search_updates")), 1)
