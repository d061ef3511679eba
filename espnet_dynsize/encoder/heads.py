"""Modules that exist once per size: output layers (batch norms: see norm.py)."""

import copy
from collections.abc import Sequence

import torch

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.subnet import FULL
from espnet_dynsize.encoder.switch import Switch


def copies(module: torch.nn.Module, smaller: Sequence[int]) -> torch.nn.ModuleDict:
    """A copy of `module` for each of the sizes, increasing: a `PerSize.by_size`."""
    # Names of modules are strings, as are heads; the order is that of insertion, and
    # `begin_joint` takes the first for the smallest.
    return torch.nn.ModuleDict(
        {str(size): copy.deepcopy(module) for size in sorted(smaller)}
    )


class PerSize:
    """Mixin for a module that exists once per size.

    The full size is the module itself, with the stock parameter names.

    Attributes:
        by_size: The modules of the smaller sizes, increasing.
        switch: Names the subnet that computes, and so the head that is used.
    """

    by_size: torch.nn.ModuleDict
    switch: Switch

    def of_size(self) -> torch.nn.Module | None:
        """The module of the subnet that computes; None: the full size's.

        Raises:
            ConfigError: there is no such head.
        """
        now = self.switch.now
        if now is None or now.subnet.head == FULL or not self.by_size:
            return None
        if now.subnet.head not in self.by_size:
            raise ConfigError(
                f"head={now.subnet.head} must be one of {[FULL, *self.by_size]}."
            )
        return self.by_size[now.subnet.head]

    def begin_training(self) -> None:
        """Let every smaller size start from the full one, which may be pretrained."""
        states = self.state_dict()
        for module in self.by_size.values():
            # Its share of them: norm statistics exist per size, scale and shift do not.
            names = module.state_dict().keys()
            module.load_state_dict({name: states[name] for name in names})

    def begin_joint(self) -> None:
        """Give what the gated subnet has learned to every smaller size."""
        smallest, *others = self.by_size.values()
        for module in others:
            module.load_state_dict(smallest.state_dict())


class SizedLinear(PerSize, torch.nn.Linear):
    """Linear layer with separate weights for every size.

    The full size keeps the stock parameter names, so stock checkpoints load.

    Args:
        stock: The layer to take over; every size starts from its weights.
        smaller: The sizes below the full one. While searching, the gated subnet uses
            the output layer of the smallest, and all others start from it afterwards.
        switch: Names the active subnet.
    """

    def __init__(self, stock: torch.nn.Linear, smaller: Sequence[int], switch: Switch):
        # The weights are replaced at once; the draws must not shift anybody else's. No
        # devices: they are made on the CPU, and torch would fork every GPU, too.
        with torch.random.fork_rng(devices=()):
            super().__init__(stock.in_features, stock.out_features)
        self.load_state_dict(stock.state_dict())
        self.switch = switch
        self.by_size = copies(stock, smaller)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Project [..., in_features] with the active subnet's weights."""
        module = self.of_size()
        return super().forward(x) if module is None else module(x)
