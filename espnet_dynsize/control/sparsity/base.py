"""What all ways to train sparse matrices have in common."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

import torch

from espnet_dynsize.control.controller import Controller, Counters
from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.core.pattern import Pattern

UNSET = math.nan
PATTERN = "4x1"
KEY = "model_conf: sparsity"
# Parts that are sparse where `pattern` names them
PARTS = ("decoder", "joint_network")
# What ESPnet calls their output layers, which are always dense
OUTPUTS = ("output_layer", "output", "lm_head", "lin_out")
PatternOption = str | int | dict[str, str | int]


class Options(Protocol):
    """The options of `model_conf: sparsity`, of any method.

    Attributes:
        levels: Increasing sparsities of the family's members.
        pattern: Of every matrix, or kind of layer → its pattern: the others are dense.
        shares: Parts of the run at which something changes; at the last one, sparsity
            is final.
        last: The option that says when that is.
        named: The option that holds the levels.
    """

    levels: Sequence[float]
    pattern: PatternOption
    shares: Sequence[float]
    last: str
    named: str


def find_patterns(
    options: Options, matrices: Mapping[str, torch.nn.Module]
) -> dict[str, Pattern]:
    """Name → pattern of each matrix that is not dense.

    Raises:
        ConfigError: a kind of layer is not there, or a level leaves nothing of a
            matrix, or cannot be had with its pattern.
    """
    if isinstance(options.pattern, dict):
        there = {kind for name in matrices for kind in _kinds(name)}
        for kind in options.pattern:
            check(kind in there, f"{KEY}: pattern: a key", kind, f"of {sorted(there)}")
    found = {}
    for name, module in matrices.items():
        pattern = _pattern_of(options.pattern, name)
        if pattern is not None:
            found[name] = pattern
            for level in options.levels:
                if level > 0:
                    key = f"{KEY}: {options.named}"
                    _check_level(key, level, pattern, name, module.weight.shape)
    good = bool(found)
    check(good, f"{KEY}: pattern", options.pattern, "of at least one kind of layer")
    return found


def _pattern_of(given: PatternOption, name: str) -> Pattern | None:
    """The pattern of a matrix; None where it stays dense."""
    if not isinstance(given, dict):
        return Pattern.named(given, f"{KEY}: pattern")
    for kind, pattern in given.items():
        if kind in _kinds(name):
            return Pattern.named(pattern, f"{KEY}: pattern: {kind}")
    return None


def _kinds(name: str) -> list[str]:
    """What a matrix can be called in `pattern`."""
    part, *rest = name.split(".")
    return rest[1:] if part == "encoders" else [part]


def other_parts(given: object) -> list[str]:
    """The parts of a model besides its encoder that are to be sparse, too."""
    return [part for part in PARTS if isinstance(given, dict) and part in given]


def _check_level(
    key: str, level: float, pattern: Pattern, name: str, shape: torch.Size
) -> None:
    only = pattern.sparsity
    good = only is None or math.isclose(only, level)
    check(good, f"{key}: of this pattern", level, f"0 and {only}")
    left, groups = pattern.count(shape, level), math.prod(pattern.grid(shape))
    allowed = f"less: nothing would be left of {name}"
    check(left > 0, key, level, allowed)
    allowed = f"more, or groups smaller: nothing of {name} would be zero"
    check(left < groups, key, level, allowed)


class Sparsity(Controller, ABC):
    """Says how sparse matrices are, and when that changes.

    `ready` is unset (NaN) until nothing changes any more; so an average that has seen
    an epoch before that is recognised as unusable.

    Args:
        options: Of the method.
        weights: Name → the weight matrix, [outputs, inputs, …], as it trains.
        patterns: Name → its pattern.
    """

    def __init__(
        self,
        options: Options,
        weights: Mapping[str, torch.nn.Module],
        patterns: Mapping[str, Pattern],
    ):
        super().__init__()
        self.options = options
        self.patterns = dict(patterns)
        # In a dictionary, which registers nothing: they are the encoder's.
        self.modules_of = {name: weights[name] for name in patterns}
        # Of the dense weights, also where less is stored
        self._shapes = {n: m.weight.shape for n, m in self.modules_of.items()}
        # The updates at which something changes; see `Options.shares`
        self.register_buffer("updates", torch.full((len(options.shares),), UNSET))
        self.register_buffer("ready", torch.full((), UNSET))

    @property
    def matrices(self) -> dict[str, int]:
        """Name → number of weights, of every matrix with a pattern."""
        return {name: math.prod(shape) for name, shape in self._shapes.items()}

    @property
    def final(self) -> bool:
        return not math.isnan(self.read("ready"))

    @property
    def planned(self) -> bool:
        return not math.isnan(self.read("updates")[0])

    @property
    def last_decision(self) -> int:
        return int(self.read("updates")[-1]) if self.planned else 0

    def plan(self, total_updates: int | None) -> None:
        """Fix when sparsity begins and ends to change.

        Raises:
            ConfigError: the length of the run is not known, or it is too short.
        """
        if total_updates is None:
            raise ConfigError(f"{KEY} needs a run of known length.")
        updates = [max(round(s * total_updates), 1) for s in self.options.shares]
        good = updates[-1] < total_updates
        allowed = f"such that some of the run's {total_updates} updates follow"
        last = self.options.last
        check(good, f"{KEY}: {last}", getattr(self.options, last), allowed)
        self.updates.copy_(torch.tensor(updates))

    def follow(self, search_updates: int) -> None:
        """Begin after the search of layers; called after `plan`.

        Raises:
            ConfigError: the options say otherwise, or leave no time.
        """

    @property
    def stored(self) -> Collection[str]:
        """Names of the matrices that store some of their groups only, in training."""
        return ()

    def begin_training(self, seed: int) -> dict[str, Callable[[], torch.Tensor]]:
        """Called before optimizers are built.

        Args:
            seed: The run's seed.

        Returns:
            Name of a matrix that stores some groups only, from now on → what gives
            their places.
        """
        return {}

    def before_loading(self, states: Mapping[str, torch.Tensor], prefix: str) -> None:
        """Called before a state dict is loaded.

        Args:
            states: The state dict.
            prefix: Of the names of this controller's buffers in it.
        """

    def misfit(self, name: str, value: torch.Tensor) -> str | None:
        """See `Counters.misfit`; unset is all NaN."""
        if value.isnan().all():
            return None
        if name == "updates" and not (value[:-1] <= value[1:]).all():
            return "holds updates that are not in order"
        return super().misfit(name, value)

    @abstractmethod
    def started(self, update: int) -> bool:
        """Whether there is something sparse in an update."""

    @abstractmethod
    def ramp(self, update: int) -> float:
        """The part of its sparsity that a subnet has in an update; first 0."""

    @abstractmethod
    def of_level(self, level: float) -> dict[str, float]:
        """Matrix → sparsity, at a level."""

    def by_now(self, level: float, update: int) -> dict[str, float]:
        """Matrix → the sparsity of a level in an update."""
        return self.of_level(self.ramp(update) * level)

    @abstractmethod
    def masks(self, sparsity: Mapping[str, float]) -> dict[str, torch.Tensor]:
        """Matrix → 1 and 0 of its weight's shape: what a sparsity leaves.

        Raises:
            ConfigError: a name is no matrix with a pattern, or has not this sparsity.
        """

    def check_names(self, names: Iterable[str]) -> None:
        """Refuse what is no matrix with a pattern.

        Raises:
            ConfigError: a name is none.
        """
        for name in names:
            allowed = f"one of {list(self.patterns)[:3]} …"
            check(name in self.patterns, "sparsity: the matrix", name, allowed)


class OfMatrices(Counters):
    """A buffer for every matrix, in double precision; NaN before it is set.

    Of which averages over epochs are exact.

    Args:
        shapes: Name of a matrix → shape of its buffer.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]]):
        super().__init__()
        for name, shape in shapes.items():
            unset = torch.full(tuple(shape), UNSET, dtype=torch.float64)
            self.register_buffer(plain(name), unset)

    def of(self, name: str) -> torch.Tensor:
        """The buffer of a matrix."""
        return self._buffers[plain(name)]


def plain(name: str) -> str:
    """A matrix's name as a buffer's, which has no dots."""
    return name.replace(".", "/")
