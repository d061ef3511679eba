"""Which subnets train at which update."""

import math
from enum import IntEnum

import torch

from espnet_dynsize.errors import ConfigError
from espnet_dynsize.selection.selector import LayerSelector
from espnet_dynsize.subnet import Subnet

UNSET = math.nan
# What trains in an update → while searching, the gated subnet does in every n-th
SANDWICHES = {"whole": 1, "alternate": 2, "pairs": 3}


class Phase(IntEnum):
    """`SEARCH`: scores are learned. `JOINT`: masks are fixed, all sizes train."""

    SEARCH = 0
    JOINT = 1


class SubnetSchedule(torch.nn.Module):
    """Phase, masks and sampled subnets, all functions of tensors in the checkpoint.

    The masks are floats and unset (NaN) while searching. So ESPnet's averaging, which
    sums integers and averages floats, keeps equal masks exactly, and an average that
    has seen a search-phase checkpoint is recognised as unusable.

    Args:
        selector: Chooses the layers.
        search_fraction: Part of the run that is search.
        search_updates: Length of the search in updates, instead of the fraction.
        score_lr: Learning rate of the scores, relative to that of the weights.
        layer_drop_joint: Stochastic depth of the full net's layers that the smallest
            subnet lacks, in the joint phase.
        layer_drop_search: The same while searching, for the layers that the gated
            subnet lacks.
    """

    def __init__(
        self,
        selector: LayerSelector,
        search_fraction: float = 0.6,
        search_updates: int | None = None,
        score_lr: float = 1.0,
        layer_drop_joint: float = 0.0,
        layer_drop_search: float = 0.0,
    ):
        super().__init__()
        self.selector = selector
        self.sizes = selector.family.sizes
        self.search_fraction = search_fraction if selector.searches else 0.0
        self.score_lr = score_lr
        self.layer_drop_joint = layer_drop_joint
        self.layer_drop_search = layer_drop_search
        self._requested_updates = search_updates
        shape = (len(self.sizes), selector.num_units)
        self.register_buffer("fixed_masks", torch.full(shape, UNSET))
        # Floats are averaged, integers would be summed; exact up to 2**24 updates.
        self.register_buffer("update", torch.zeros(()))
        self.register_buffer("search_updates", torch.full((), UNSET))
        self.register_buffer("joint_epochs", torch.zeros(()))
        self._seed = 0
        self._on_host: dict[str, tuple] = {}

    def plan(self, total_updates: int | None) -> None:
        """Fix the length of the search for a run of `total_updates` (None: unknown).

        Raises:
            ConfigError: the search does not fit into the run.
        """
        updates = self._requested_updates
        if updates is None:
            if total_updates is None:
                raise ConfigError(
                    f"selector_conf: search_fraction={self.search_fraction} needs a "
                    "run of known length; give search_updates with this iterator."
                )
            updates = round(self.search_fraction * total_updates)
        if total_updates is not None and updates >= total_updates:
            raise ConfigError(
                f"selector_conf: search_updates={updates} must be less than the run's "
                f"{total_updates} updates."
            )
        self.search_updates.fill_(updates)

    def _apply(self, fn, recurse=True):
        """Follow the model to its device, but count in float32 at any precision."""
        super()._apply(fn, recurse)
        for name, buffer in self._buffers.items():
            self._buffers[name] = buffer.float()
        return self

    def _read(self, name: str):
        """A buffer as numbers; the device is waited for only after a change."""
        buffer = getattr(self, name)
        version = (id(buffer), buffer._version)
        if self._on_host.get(name, (None,))[0] != version:
            self._on_host[name] = (version, buffer.tolist())
        return self._on_host[name][1]

    @property
    def started(self) -> bool:
        """Whether there has been an update."""
        return self._read("update") > 0

    @property
    def phase(self) -> Phase:
        unset = any(
            math.isnan(kept) for row in self._read("fixed_masks") for kept in row
        )
        return Phase.SEARCH if unset else Phase.JOINT

    def begin_update(self, seed: int) -> bool:
        """Advance by one update; the first one after the search fixes the masks.

        Returns:
            Whether the joint phase begins with this update.
        """
        self._seed = seed
        self.update += 1
        if self.phase is Phase.JOINT:
            return False
        update = int(self._read("update"))
        if update > self._read("search_updates"):
            self.fixed_masks.copy_(self.selector.masks())
            return True
        self.selector.begin_update(update - 1, self._search_length())
        return False

    def masks(self) -> torch.Tensor:
        """Bool [len(sizes), N]: the fixed masks, or what the scores say so far."""
        if self.phase is Phase.SEARCH:
            return self.selector.masks()
        return torch.tensor(self._read("fixed_masks")) > 0.5

    def subnet(self, size: int) -> Subnet:
        """The subnet of `size` with hard gates.

        Raises:
            ConfigError: `size` is not in the family, or has no fixed mask yet.
        """
        if size not in self.sizes:
            raise ConfigError(f"size={size} must be one of {list(self.sizes)}.")
        if self.phase is Phase.SEARCH and size != self.sizes[-1]:
            raise ConfigError(
                f"size={size} has no layers yet: the checkpoint is from the search "
                "phase, or an average with one; use a joint-phase checkpoint."
            )
        return self._subnet(self.sizes.index(size), self.masks())

    def family(self) -> list[Subnet]:
        """Every size, smallest first; the masks may still change while searching."""
        masks = self.masks()
        return [self._subnet(i, masks) for i in range(len(self.sizes))]

    def sandwich(self, rule: str = "whole") -> tuple[list[Subnet], torch.Tensor]:
        """Subnets to train in this update, largest first, and the loss's penalty.

        Search: full and gated. Joint: full, one size drawn between, and smallest.

        Args:
            rule: `whole`: all of them (arXiv 2407.18930). `alternate`: the gated one
                only in every second update, with twice the penalty; in the joint phase,
                the smallest and the one between take turns. `pairs`: the gated one only
                in every third update, with three times the penalty; in the joint phase,
                all but one, each in turn left out.
        """
        if self.phase is Phase.SEARCH:
            return self._search_subnets(SANDWICHES[rule])
        masks = self.masks()
        picks, last = [self._full(masks)], len(self.sizes) - 1
        if last > 1:
            picks.append(self._subnet(self._draw(1, last), masks))
        if last > 0:
            picks.append(self._subnet(0, masks))
        if rule != "whole":
            turn = int(self._read("update"))
            all_in_turn = rule == "pairs" and len(picks) == 3
            left_out = turn % 3 if all_in_turn else 2 - turn % 2
            # A slice, as a smaller family has nobody there in every second update.
            del picks[left_out : left_out + 1]
        return picks, self.fixed_masks.new_zeros(())

    def _draws(self) -> torch.Generator:
        """Random numbers of this update: the same on every rank and when resumed."""
        generator = torch.Generator()
        generator.manual_seed(1_000_003 * self._seed + int(self._read("update")))
        return generator

    def _search_subnets(self, every: int) -> tuple[list[Subnet], torch.Tensor]:
        update = max(int(self._read("update")) - 1, 0)
        everything = (True,) * self.selector.num_units
        alone = update % every > 0
        if alone and self.layer_drop_search == 0.0:  # needs no gates
            return [Subnet(self.sizes[-1], everything)], self.fixed_masks.new_zeros(())
        k, values, penalty, hard = self.selector.gates(
            update, self._search_length(), self._draws()
        )
        full = Subnet(self.sizes[-1], everything, drop=self._search_drop(k))
        if alone:
            return [full], self.fixed_masks.new_zeros(())
        kept = tuple((values > 0.5).tolist()) if hard else everything
        return [full, Subnet(k, kept, gates=values)], every * penalty

    def _search_drop(self, k: int) -> tuple[float, ...] | None:
        if self.layer_drop_search == 0.0:
            return None
        drop = [0.0] * self.selector.num_units
        for unit in self.selector.ranking()[k:]:
            drop[unit] = self.layer_drop_search
        return tuple(drop)

    def _search_length(self) -> int:
        length = self._read("search_updates")
        if math.isnan(length):
            raise RuntimeError("SubnetSchedule.plan() comes before training.")
        return max(int(length), 1)

    def _full(self, masks: torch.Tensor) -> Subnet:
        drop = tuple(0.0 if kept else self.layer_drop_joint for kept in masks[0])
        full = self._subnet(len(self.sizes) - 1, masks)
        return Subnet(full.size, full.mask, drop=drop)

    def _subnet(self, index: int, masks: torch.Tensor) -> Subnet:
        return Subnet(self.sizes[index], tuple(masks[index].tolist()))

    def _draw(self, low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=self._draws()))
