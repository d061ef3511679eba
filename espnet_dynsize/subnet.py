"""A subnet, and the one place that says which subnets compute."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch


@dataclass(frozen=True, eq=False)
class Subnet:
    """A choice of units: of layers or, with `granularity: component`, of their parts.

    Args:
        size: Name of the size; also selects the output layer and the norm statistics,
            where these exist per size.
        mask: One bool per unit, True = kept.
        gates: Shape [N]; multiplies the units' outputs while searching. A unit that
            is not kept but has a gate (of exactly 0) is computed all the same, without
            gradients of its own, so that its score gets one.
        drop: One stochastic-depth probability per unit (training only).
    """

    size: int
    mask: tuple[bool, ...]
    gates: torch.Tensor | None = None
    drop: tuple[float, ...] | None = None

    def kept(self, units: range) -> tuple[int, ...]:
        """Which of `units` are kept, counted from the first of them."""
        return tuple(i for i, unit in enumerate(units) if self.mask[unit])

    def same(self, other: "Subnet", units: range) -> bool:
        """Whether the layer with `units` computes the same numbers in both."""
        plain = all(
            s.gates is None and not (s.drop and any(s.drop[i] for i in units))
            for s in (self, other)
        )
        return plain and self.kept(units) == other.kept(units)


class Part(NamedTuple):
    """One of several subnets that compute in one pass.

    Args:
        subnet: The subnet.
        fork: First unit from which on it has rows of its own; before it, the first
            part computes the same.
    """

    subnet: Subnet
    fork: int = 0


class Switch:
    """Says which subnet computes; read by every block, norm and output layer.

    Attributes:
        default: What computes outside `activate`; None for the full network.
        parts: While several subnets compute in one pass, who computes what.
        computing: While a layer computes, (subnet, sequences) in order of the batch.
    """

    def __init__(self) -> None:
        self.default: Subnet | None = None
        self.parts: list[Part] | None = None
        self.computing: list[tuple[Subnet | None, int]] | None = None
        self._active: Subnet | None = None

    @property
    def subnet(self) -> Subnet | None:
        """The subnet that computes now; None for the full network."""
        return self.default if self._active is None else self._active

    @contextmanager
    def activate(self, subnet: Subnet) -> Iterator[Subnet]:
        """Let `subnet` compute inside the `with` block."""
        previous, self._active = self._active, subnet
        try:
            yield subnet
        finally:
            self._active = previous

    @contextmanager
    def activate_parts(self, parts: Sequence[Part]) -> Iterator[None]:
        """Let several subnets compute in one pass inside the `with` block."""
        self.parts = list(parts)
        try:
            yield
        finally:
            self.parts = None

    @contextmanager
    def computes(self, members: Sequence[tuple[Subnet | None, int]]) -> Iterator[None]:
        """Tell the norms inside a layer whose sequences they see."""
        self.computing = list(members)
        try:
            yield
        finally:
            self.computing = None


def copies(module: torch.nn.Module, smaller: Sequence[int]) -> torch.nn.ModuleDict:
    """A copy of `module` for each of the sizes, increasing: a `PerSize.by_size`."""
    made = {str(size): copy.deepcopy(module) for size in sorted(smaller)}
    return torch.nn.ModuleDict(made)


class PerSize:
    """Mixin for a module that exists once per size.

    The full size is the module itself, with the stock parameter names.

    Attributes:
        by_size: The modules of the smaller sizes, increasing.
        switch: Names the subnets that compute.
    """

    by_size: torch.nn.ModuleDict
    switch: Switch

    def own(self, subnet: Subnet | None) -> torch.nn.Module | None:
        """The subnet's module; None: the full size's.

        While searching, the gated subnet uses that of the smallest size.
        """
        if subnet is None or not self.by_size:
            return None
        if subnet.gates is not None:
            return next(iter(self.by_size.values()))
        size = str(subnet.size)
        if size not in self.by_size:
            return None
        return self.by_size[size]

    def begin_training(self) -> None:
        """Let every smaller size start from the full one, which may be pretrained."""
        states = self.state_dict()
        for module in self.by_size.values():
            names = module.state_dict().keys()
            module.load_state_dict({name: states[name] for name in names})

    def begin_joint(self) -> None:
        """Give what the gated subnet has learned to every smaller size."""
        modules = list(self.by_size.values())
        for module in modules[1:]:
            module.load_state_dict(modules[0].state_dict())
