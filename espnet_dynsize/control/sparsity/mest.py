"""Training that is sparse from the first update (MEST, arXiv 2110.14032).

Every now and then, the groups of weights that matter least are given up and others
begin, from zero, in their place. Only groups that are used are stored.
"""

import functools
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch

from espnet_dynsize.control.sparsity.base import (
    KEY,
    PATTERN,
    UNSET,
    OfMatrices,
    PatternOption,
    Sparsity,
    plain,
)
from espnet_dynsize.core.errors import check
from espnet_dynsize.core.members import percent
from espnet_dynsize.core.pattern import Pattern
from espnet_dynsize.core.schema import (
    Fraction,
    NotEmpty,
    NotNegative,
    Range,
    Share,
)

Shares = Annotated[list[Share], NotEmpty()]


@dataclass(frozen=True)
class Mest:
    """How one sparse network trains: the options of `model_conf: sparsity`.

    Args:
        method: `mest`.
        target: The share of the groups that is zero in the end.
        variant: `em`, Elastic Mutation: so many groups are removed, and as many begin.
            `em_s`, with the soft memory bound: between mutations there are more groups
            than in the end by those that have begun; the least important go at the
            next one.
        pattern: As of a family of sparsities, but for `N:M`.
        mutation: The share of all groups of a matrix that mutates at a time, in each
            stage but the last one, in which nothing does.
        stages: Parts of the run at which the second stage and those after it begin.
        interval: Part of the run between two mutations.
        gradient_weight: How much a weight's gradient counts beside its magnitude, in
            what it matters: λ of the paper.
        growth: Which groups begin: `random` ones, or those of the largest `gradient`
            (RigL, arXiv 1911.11134).
        distribution: `uniform`: every matrix has the sparsity of the target. `erk`:
            wide ones are sparser than narrow ones (arXiv 1911.11134, section 3).

    Raises:
        ConfigError: stages are not in order, or there is nothing that could mutate.
    """

    method: Literal["mest"]
    target: Annotated[float, Range(0, 1, open_low=True, open_high=True)]
    variant: Literal["em", "em_s"] = "em_s"
    pattern: PatternOption = PATTERN
    mutation: Shares = (0.05, 0.025)
    stages: Shares = (0.5625, 0.75)
    interval: Fraction = 0.03125
    gradient_weight: NotNegative = 0.0
    growth: Literal["random", "gradient"] = "random"
    distribution: Literal["uniform", "erk"] = "uniform"

    last, named = "stages", "target"

    def __post_init__(self):
        good = list(self.stages) == sorted(set(self.stages))
        good = good and self.stages[0] >= self.interval
        allowed = f"increasing parts of the run, from interval ({self.interval}) on"
        check(good, f"{KEY}: stages", list(self.stages), allowed)
        good = len(self.mutation) == len(self.stages)
        allowed = f"one share for each of the {len(self.stages)} stages before the last"
        check(good, f"{KEY}: mutation", list(self.mutation), allowed)
        named = percent(self.target)
        check(0 < named < 100, f"{KEY}: target", self.target, "from 0.01 to 0.99")
        kept = round(1 - self.target, 9)
        most = kept if self.variant == "em" else self.target
        good = min(self.mutation) > 0 and max(self.mutation) <= most
        allowed = f"above 0, and at most {most}: what there is to mutate"
        check(good, f"{KEY}: mutation", list(self.mutation), allowed)

    @property
    def levels(self) -> tuple[float]:
        return (self.target,)

    @property
    def shares(self) -> tuple[float, ...]:
        return self.interval, *self.stages


class MestSparsity(Sparsity):
    """Where the groups of every matrix are, and when that changes.

    Args:
        options: How sparse, and how it mutates.
        weights: See `Sparsity`.
        patterns: The same.

    Raises:
        ConfigError: a pattern is `N:M`, whose groups compete within M inputs.
    """

    options: Mest

    def __init__(
        self,
        options: Mest,
        weights: Mapping[str, torch.nn.Module],
        patterns: Mapping[str, Pattern],
    ):
        for pattern in patterns.values():
            good = pattern.kept_of is None
            check(good, f"{KEY}: pattern", options.pattern, "another than N:M for mest")
        shares = densities(options, {n: weights[n].weight.shape for n in patterns})
        # What ERK leaves dense is an ordinary matrix.
        sparse = {n: pattern for n, pattern in patterns.items() if shares[n] < 1}
        super().__init__(options, weights, sparse)
        self._densities = {name: shares[name] for name in sparse}
        self._check_counts()
        self.places = Places(
            {
                name: (
                    max(self._total(name, stage) for stage in self._stages),
                    math.prod(self._grid(name)),
                )
                for name in sparse
            }
        )
        # How many mutations there have been
        self.register_buffer("changes", torch.zeros(()))
        self._begun = False

    def _grid(self, name: str) -> tuple[int, int]:
        return self.patterns[name].grid(self._shapes[name])

    def _check_counts(self) -> None:
        """Refuse options with which nothing would be left of a matrix in some stage."""
        for name in self.patterns:
            staying = min(self._staying(name, stage) for stage in self._stages)
            for key, least in (("target", self._count(name)), ("mutation", staying)):
                value = getattr(self.options, key)
                allowed = f"less: nothing would be left of {name}"
                check(least > 0, f"{KEY}: {key}", value, allowed)

    @property
    def _stages(self) -> range:
        return range(len(self.options.stages) + 1)

    def _total(self, name: str, stage: int) -> int:
        """Groups of a matrix after a mutation of a stage."""
        more = self._mutating(stage) if self._soft else 0.0
        return self._count(name, more)

    def _staying(self, name: str, stage: int) -> int:
        """Those of them that were there before it."""
        return self._count(name, 0.0 if self._soft else -self._mutating(stage))

    @property
    def _soft(self) -> bool:
        return self.options.variant == "em_s"

    def _count(self, name: str, more: float = 0.0) -> int:
        """Groups of a matrix at its density in the end, and `more` of all groups."""
        # Of matrices of another density, as much more in relation to it.
        factor = 1 + more / (1 - self.options.target)
        sparsity = max(1 - self._densities[name] * factor, 0.0)
        return self.patterns[name].count(self._shapes[name], sparsity)

    def _mutating(self, stage: int) -> float:
        """The share of groups that mutates in a stage: in the last one, none."""
        return (*self.options.mutation, 0.0)[stage]

    def reset(self) -> None:
        # The places stay: they are where the weights are.
        self.updates.fill_(UNSET)
        self.ready.fill_(UNSET)
        self.changes.zero_()

    @property
    def stored(self) -> Collection[str]:
        return self.patterns

    def begin_training(self, seed: int) -> dict[str, Callable[[], torch.Tensor]]:
        """Draw the first groups; see `Sparsity.begin_training`."""
        if self._begun:  # Lightning's setup may come twice
            return {}
        generator = torch.Generator().manual_seed(seed)
        for name in self.patterns:
            number = math.prod(self._grid(name))
            drawn = torch.randperm(number, generator=generator)
            places, used = self.places.of(name), self._total(name, 0)
            places[:used] = drawn[:used].sort().values.to(places)
        self._begun = True
        return {n: functools.partial(self.places.of, n) for n in self.patterns}

    def before_loading(self, states: Mapping[str, torch.Tensor], prefix: str) -> None:
        """Take the places of a checkpoint, before its weights are loaded to them."""
        for name, place in self.places.named_buffers():
            given = states.get(f"{prefix}places.{name}")
            if given is not None and given.shape == place.shape:
                place.copy_(given)

    def begin_update(self, update: int, generator: torch.Generator) -> None:
        if not (self.planned and self._begun):
            raise RuntimeError("plan() and begin_training() come before training.")
        if self.options.growth == "gradient" and self._due(update):
            for name, module in self.modules_of.items():
                module.seen = torch.zeros(math.prod(self._grid(name)))

    def _due(self, update: int) -> int:
        """The number of a mutation for which it is time; 0 if it is not.

        A step that a gradient scaler skips is none: then it is the next one's.
        """
        interval, *_, last = map(int, self.read("updates"))
        number = min(update, last - 1) // interval + (update >= last)
        return number if number > self.read("changes") else 0

    @torch.no_grad()
    def after_step(
        self, update: int, optimizer: torch.optim.Optimizer, generator: torch.Generator
    ) -> None:
        """Mutate, with the gradients of the step."""
        number = self._due(update)
        if not number:
            return
        stage = sum(update >= end for end in self.read("updates")[1:])
        for name, module in self.modules_of.items():
            state = optimizer.state.get(module.weight, {})
            self._mutate(name, module, stage, state, generator)
        self.changes.fill_(number)
        if stage == self._stages[-1]:
            self.ready.fill_(1.0)

    def _mutate(
        self,
        name: str,
        module: torch.nn.Module,
        stage: int,
        state: Mapping[str, object],
        generator: torch.Generator,
    ) -> None:
        places, staying = self.places.of(name), self._staying(name, stage)
        total = self._total(name, stage)
        pattern, grid = self.patterns[name], self._grid(name)

        used = ~places.isnan()
        index = places.nan_to_num().long()
        worth = torch.full((math.prod(grid),), -math.inf, device=places.device)
        worth[index[used]] = self._importance(name, module)[used]
        stay = pattern.ranks(worth.view(grid), generator).flatten() < staying
        worth = self._growth(module, worth, generator).masked_fill(stay, -math.inf)
        ranks = pattern.ranks(worth.view(grid), generator).flatten()
        new = (ranks < total - staying).nonzero().flatten()

        kept = used & stay[index]
        places[~kept] = UNSET
        places[(~kept).nonzero().flatten()[: len(new)]] = new.to(places)
        module.replace(kept, state)
        module.seen = None

    def _importance(self, name: str, module: torch.nn.Module) -> torch.Tensor:
        """Root mean square over each group stored of |w| + λ |∂L/∂w|."""
        values, gradient = module.weight.detach().abs().float(), module.weight.grad
        weight = self.options.gradient_weight
        if weight and gradient is not None:
            values = values + weight * gradient.abs().float()
        # Groups at the end are smaller.
        ones = module.gathered(torch.ones(self._shapes[name], device=values.device))
        numbers = ones.sum(dim=1).clamp(min=1)
        return ((values * ones).square().sum(dim=1) / numbers).sqrt()

    def _growth(
        self, module: torch.nn.Module, like: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """How much every group [groups] of a matrix is wanted."""
        if self.options.growth == "random":
            return torch.rand(like.shape, generator=generator).to(like)
        seen = module.seen.to(like)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(seen)
        return seen

    def started(self, update: int) -> bool:
        return True

    def ramp(self, update: int) -> float:
        return 1.0

    def of_level(self, level: float) -> dict[str, float]:
        return {name: 1 - share for name, share in self._densities.items()}

    def masks(self, sparsity: Mapping[str, float]) -> dict[str, torch.Tensor]:
        """None: the weights themselves are zero."""
        self.check_names(sparsity)
        for name, share in self.of_level(self.options.target).items():
            asked, allowed = sparsity.get(name), f"{share}, the only one there is"
            check(asked == share, f"subnet: sparsity: {name}", asked, allowed)
        return {}


class Places(OfMatrices):
    """Where each group stored is in its matrix, counted row by row; NaN: not used.

    Args:
        numbers: Name of a matrix → how many groups are stored, of how many.
    """

    def __init__(self, numbers: Mapping[str, tuple[int, int]]):
        super().__init__({name: (stored,) for name, (stored, _) in numbers.items()})
        self._groups = {plain(name): groups for name, (_, groups) in numbers.items()}

    def misfit(self, name: str, value: torch.Tensor) -> str | None:
        """See `Counters.misfit`; unset is all NaN."""
        used = value[~value.isnan()]
        whole = bool((used == used.floor()).all())
        inside = bool(((used >= 0) & (used < self._groups[name])).all())
        if whole and inside and len(used.unique()) == len(used):
            return None
        return "holds no places of groups"


def densities(options: Mest, shapes: Mapping[str, torch.Size]) -> dict[str, float]:
    """Name of a matrix → the share of its groups that is there in the end.

    Args:
        options: The target and how it is distributed.
        shapes: Name → [outputs, inputs, …].
    """
    kept = 1 - options.target
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    if options.distribution == "uniform":
        return dict.fromkeys(shapes, kept)
    raw = {name: (s[0] + s[1]) / (s[0] * s[1]) for name, s in shapes.items()}
    dense: set[str] = set()
    # Where a matrix would have more than all of its weights, the others have the rest.
    while len(dense) < len(shapes):
        others = [name for name in shapes if name not in dense]
        left = kept * sum(sizes.values()) - sum(sizes[name] for name in dense)
        scale = left / sum(raw[name] * sizes[name] for name in others)
        full = {name for name in others if raw[name] * scale >= 1}
        if not full:
            return {n: 1.0 if n in dense else raw[n] * scale for n in shapes}
        dense |= full
    return dict.fromkeys(shapes, 1.0)
