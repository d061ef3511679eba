"""A subnet, and the one place that says which subnet computes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class Subnet:
    """A choice of layers.

    Args:
        size: Number of layers kept; also selects the output layer and the norm
            statistics, where these exist per size.
        mask: One bool per layer, True = kept.
        gates: Shape [L]; multiplies the layers' outputs while searching. A layer with
            gate 0 is computed all the same, so that its score gets a gradient.
        drop: One stochastic-depth probability per layer (training only).
    """

    size: int
    mask: tuple[bool, ...]
    gates: torch.Tensor | None = None
    drop: tuple[float, ...] | None = None


class Switch:
    """Holds the subnet that computes; read by every block, norm and output layer.

    Attributes:
        default: What computes outside `activate`; None for the full network.
    """

    def __init__(self) -> None:
        self.default: Subnet | None = None
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

    def keeps(self, layer: int) -> bool:
        subnet = self.subnet
        return subnet is None or subnet.mask[layer]

    def weigh(self, layer: int, output: torch.Tensor, training: bool) -> torch.Tensor:
        """Apply the layer's gate and stochastic depth to its output [B, T, D].

        Stochastic depth (https://arxiv.org/abs/1603.09382) drops the layer per
        sequence and scales the survivors by 1 / (1 - p).
        """
        subnet = self.subnet
        if subnet is None:
            return output
        if subnet.gates is not None:
            output = output * subnet.gates[layer]
        p = subnet.drop[layer] if subnet.drop is not None and training else 0.0
        if p > 0.0:
            survivors = output.new_empty(output.size(0), 1, 1).bernoulli_(1.0 - p)
            output = output * (survivors / (1.0 - p))
        return output
