"""Sparsity: the controller that ranks the groups of every matrix, then freezes them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

import torch

from espnet_dynsize.control.controller import Controller, Counters
from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.core.members import percent
from espnet_dynsize.core.pattern import Pattern
from espnet_dynsize.core.schema import Count, NotEmpty, Share

UNSET = math.nan
PATTERN = "4x1"
# Around a global sparsity, the kept share of a matrix varies by this part of itself
SCATTER = 0.3
_KEY = "model_conf: sparsity"


@dataclass(frozen=True)
class Sparse:
    """Which sparsities train, and when: the options of `model_conf: sparsity`.

    Args:
        levels: Increasing shares of each matrix's groups that are zero; 0 is the dense
            network.
        pattern: Shape of the groups, such as `4x1` (4 outputs of one input), of every
            matrix; or of some kinds of layers: `{feed_forward: 8x1, self_attn: 4x1}`,
            where the others stay dense.
        start: Part of the run in which the dense network trains without sparse ones.
        ramp_end: Part of the run after which the levels are reached, in a cubic curve
            (arXiv 1710.01878, equation 1).
        freeze: Part of the run after which the groups that are zero stay the same.
        refresh_updates: So often, until then, groups are ranked anew.

    Raises:
        ConfigError: they are not in order.
    """

    levels: Annotated[list[Share], NotEmpty()]
    pattern: str | int | dict[str, str | int] = PATTERN
    start: Share = 0.35
    ramp_end: Share = 0.65
    freeze: Share = 0.80
    refresh_updates: Count = 50

    def __post_init__(self):
        names = [percent(level) for level in self.levels]
        good = names == sorted(set(names)) and self.levels[0] == 0
        allowed = "increasing from 0, at least 0.01 apart"
        check(good, f"{_KEY}: levels", list(self.levels), allowed)
        check(len(names) > 1, f"{_KEY}: levels", list(self.levels), "0 and others")
        order = self.start <= self.ramp_end <= self.freeze
        times = f"{self.start}, {self.ramp_end}, {self.freeze}"
        allowed = "increasing parts of the run"
        check(order, f"{_KEY}: start, ramp_end, freeze", times, allowed)

    def pattern_of(self, name: str) -> Pattern | None:
        """The pattern of a matrix; None where it stays dense."""
        if not isinstance(self.pattern, dict):
            return Pattern.named(self.pattern, f"{_KEY}: pattern")
        for kind, pattern in self.pattern.items():
            if kind in name.split("."):
                return Pattern.named(pattern, f"{_KEY}: pattern: {kind}")
        return None


def find_patterns(
    sparse: Sparse, matrices: Mapping[str, torch.nn.Module]
) -> dict[str, Pattern]:
    """Name → pattern of each matrix that is not dense.

    Raises:
        ConfigError: a kind of layer is not there, or a level leaves nothing of a
            matrix, or cannot be had with its pattern.
    """
    if isinstance(sparse.pattern, dict):
        there = {part for name in matrices for part in name.split(".")[2:]}
        for kind in sparse.pattern:
            check(kind in there, f"{_KEY}: pattern: a key", kind, f"of {sorted(there)}")
    found = {}
    for name, module in matrices.items():
        pattern = sparse.pattern_of(name)
        if pattern is None:
            continue
        found[name] = pattern
        for level in sparse.levels[1:]:
            only = pattern.sparsity
            good = only is None or math.isclose(only, level)
            check(good, f"{_KEY}: levels: of this pattern", level, f"0 and {only}")
            shape = module.weight.shape
            left, groups = pattern.count(shape, level), math.prod(pattern.grid(shape))
            allowed = f"less: nothing would be left of {name}"
            check(left > 0, f"{_KEY}: levels", level, allowed)
            allowed = f"more, or groups smaller: nothing of {name} would be zero"
            check(left < groups, f"{_KEY}: levels", level, allowed)
    good = bool(found)
    check(good, f"{_KEY}: pattern", sparse.pattern, "of at least one kind of layer")
    return found


class Sparsity(Controller):
    """Ranks of the groups, and when they change, as tensors in the checkpoint.

    Magnitude decides: the groups of largest root mean square die last. `ready` is unset
    (NaN) until the ranks are frozen; so an average that has seen an epoch before that
    is recognised as unusable.

    Args:
        sparse: The options.
        weights: Name → the weight of a matrix, [outputs, inputs, …], as it trains.
        patterns: Name → its pattern.
    """

    def __init__(
        self,
        sparse: Sparse,
        weights: Mapping[str, torch.nn.Module],
        patterns: Mapping[str, Pattern],
    ):
        super().__init__()
        self.sparse = sparse
        self.patterns = dict(patterns)
        # In a dictionary, which registers nothing: they are the encoder's.
        self._modules_of = {name: weights[name] for name in patterns}
        self.ranks = Ranks(
            {n: (p, weights[n].weight.shape) for n, p in patterns.items()}
        )
        # First update with sparse subnets, the ones that end ramp and refreshing
        self.register_buffer("updates", torch.full((3,), UNSET))
        self.register_buffer("ready", torch.full((), UNSET))

    @property
    def matrices(self) -> dict[str, int]:
        """Name → number of weights, of every matrix with a pattern."""
        return {n: m.weight.numel() for n, m in self._modules_of.items()}

    @property
    def final(self) -> bool:
        return not math.isnan(self.read("ready"))

    @property
    def planned(self) -> bool:
        return not math.isnan(self.read("updates")[0])

    @property
    def last_decision(self) -> int:
        return int(self.read("updates")[2]) if self.planned else 0

    def plan(self, total_updates: int | None) -> None:
        """Fix when sparsity begins and ends to change.

        Raises:
            ConfigError: the length of the run is not known, or it is too short.
        """
        if total_updates is None:
            raise ConfigError(f"{_KEY} needs a run of known length.")
        shares = (self.sparse.start, self.sparse.ramp_end, self.sparse.freeze)
        # Ranks are needed before the first sparse subnet: the first update at least.
        updates = [max(round(share * total_updates), 1) for share in shares]
        good = updates[2] < total_updates
        allowed = f"such that some of the run's {total_updates} updates follow"
        check(good, f"{_KEY}: freeze", self.sparse.freeze, allowed)
        self.updates.copy_(torch.tensor(updates))

    def check_after(self, search_updates: int) -> None:
        """Refuse to begin before the search of layers has ended.

        Raises:
            ConfigError: it would.
        """
        begins = int(self.read("updates")[0])
        good = begins > search_updates
        allowed = f"after the search of layers, which takes {search_updates} updates"
        check(good, f"{_KEY}: start={self.sparse.start}: update", begins, allowed)

    def reset(self) -> None:
        for buffer in self.buffers():  # those of the ranks, too
            buffer.fill_(UNSET)

    def misfit(self, name: str, value: torch.Tensor) -> str | None:
        """See `Counters.misfit`; unset is all NaN."""
        if value.isnan().all():
            return None
        if name == "updates" and not (value[:-1] <= value[1:]).all():
            return "holds updates that are not in order"
        return super().misfit(name, value)

    def begin_update(self, update: int, generator: torch.Generator) -> None:
        if not self.planned:
            raise RuntimeError("Sparsity.plan() comes before training.")
        start, _, freeze = self.read("updates")
        if update < start or self.final:
            return
        # Before the update's first batch, from weights that are the same on all ranks.
        if (update - start) % self.sparse.refresh_updates == 0 or update >= freeze:
            self._rank(generator)
        if update >= freeze:
            self.ready.fill_(1.0)

    @torch.no_grad()
    def _rank(self, generator: torch.Generator) -> None:
        for name, pattern in self.patterns.items():
            magnitudes = pattern.magnitudes(self._modules_of[name].weight)
            self.ranks.of(name).copy_(pattern.ranks(magnitudes, generator))

    def started(self, update: int) -> bool:
        """Whether sparse subnets train in an update."""
        return self.planned and update >= self.read("updates")[0]

    def ramp(self, update: int) -> float:
        """The part of its sparsity that a subnet has in an update."""
        start, end, _ = self.read("updates")
        if update >= end:  # also where both are the same
            return 1.0
        left = 1 - max(update - start, 0) / (end - start)
        return 1 - left**3

    def of_level(self, level: float) -> dict[str, float]:
        """Matrix → sparsity, at a level."""
        return dict.fromkeys(self.patterns, level)

    def drawn(
        self, update: int, turn: int, generator: torch.Generator
    ) -> dict[str, float]:
        """Matrix → sparsity in an update: the sparsest, and a random one, in turn.

        A random one has a global sparsity between the levels, around which the kept
        shares of the matrices are scattered.

        Args:
            update: Counted from 1.
            turn: Of sparse subnets; which one is drawn.
            generator: The same on every rank and in a resumed run.
        """
        least, most = self.sparse.levels[1], self.sparse.levels[-1]
        level = least + (most - least) * float(torch.rand((), generator=generator))
        noise = torch.rand(len(self.patterns), generator=generator)
        chosen = self.of_level(most) if turn % 2 else self._scattered(level, noise)
        ramp = self.ramp(update)
        return {name: ramp * sparsity for name, sparsity in chosen.items()}

    def _scattered(self, level: float, noise: torch.Tensor) -> dict[str, float]:
        sizes = torch.tensor([float(n) for n in self.matrices.values()])
        factors = 1 + SCATTER * (2 * noise - 1)
        # As many weights as without them, but for matrices that cannot keep more.
        factors = factors * sizes.sum() / (factors * sizes).sum()
        shares = (1 - (1 - level) * factors).clamp(0, self.sparse.levels[-1])
        return {
            name: level if pattern.sparsity is not None else float(share)
            for (name, pattern), share in zip(self.patterns.items(), shares)
        }

    def masks(self, sparsity: Mapping[str, float]) -> dict[str, torch.Tensor]:
        """Matrix → 1 and 0 of its weight's shape: what a sparsity leaves.

        Raises:
            ConfigError: a name is no matrix with a pattern.
        """
        self.check_names(sparsity)
        return {n: self._mask(n, share) for n, share in sparsity.items() if share > 0}

    def check_names(self, names: Iterable[str]) -> None:
        """Refuse what is no matrix with a pattern.

        Raises:
            ConfigError: a name is none.
        """
        for name in names:
            allowed = f"one of {list(self.patterns)[:3]} …"
            check(name in self.patterns, "sparsity: the matrix", name, allowed)

    def _mask(self, name: str, share: float) -> torch.Tensor:
        weight, ranks = self._modules_of[name].weight, self.ranks.of(name)
        if bool(ranks.isnan().any()):
            raise ConfigError(f"sparsity: the groups of {name} have no ranks yet.")
        pattern = self.patterns[name]
        groups = pattern.mask(ranks, share).to(weight.dtype)
        return pattern.spread(groups, weight.shape)


class Ranks(Counters):
    """The rank of each group, a buffer [grid] for each matrix; NaN before there is one.

    Args:
        matrices: Name → pattern and shape of a matrix.
    """

    def __init__(self, matrices: Mapping[str, tuple[Pattern, torch.Size]]):
        super().__init__()
        self._patterns = {}
        for name, (pattern, shape) in matrices.items():
            self._patterns[_plain(name)] = pattern
            # In double precision, which adds up ranks of some epochs exactly: averages.
            unset = torch.full(pattern.grid(shape), UNSET, dtype=torch.float64)
            self.register_buffer(_plain(name), unset)

    def of(self, name: str) -> torch.Tensor:
        """The ranks [grid] of a matrix."""
        return self._buffers[_plain(name)]

    def misfit(self, name: str, value: torch.Tensor) -> str | None:
        """See `Counters.misfit`; unset is all NaN."""
        if value.isnan().all() or self._patterns[name].is_ranking(value):
            return None
        return "holds no ranking of groups"


def _plain(name: str) -> str:
    # Names of buffers have no dots.
    return name.replace(".", "/")
