"""Output layers, one per size."""

from collections.abc import Sequence

import torch

from espnet_dynsize.subnet import Switch


class SizedLinear(torch.nn.Linear):
    """Linear layer with separate weights for every size.

    The full size keeps the stock parameter names, so stock checkpoints load.

    Args:
        stock: The layer to take over; every size starts from its weights.
        smaller: The sizes below the full one. While searching, the gated subnet uses
            the output layer of the smallest, and all others start from it afterwards.
        switch: Names the active subnet.
    """

    def __init__(self, stock: torch.nn.Linear, smaller: Sequence[int], switch: Switch):
        super().__init__(stock.in_features, stock.out_features)
        self.load_state_dict(stock.state_dict())
        self.switch = switch
        self.smallest = str(min(smaller)) if smaller else None
        self.by_size = torch.nn.ModuleDict()
        for size in smaller:
            self.by_size[str(size)] = torch.nn.Linear(
                stock.in_features, stock.out_features
            )
            self.by_size[str(size)].load_state_dict(stock.state_dict())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Project [..., in_features] with the active subnet's weights."""
        active = self._active()
        return super().forward(x) if active is None else self.by_size[active](x)

    @torch.no_grad()
    def begin_joint(self) -> None:
        """Give what the gated subnet has learned to every smaller size."""
        for layer in self.by_size.values():
            layer.load_state_dict(self.by_size[self.smallest].state_dict())

    def _active(self):
        subnet = self.switch.subnet
        if subnet is None:
            return None
        if subnet.gates is not None:
            return self.smallest
        return str(subnet.size) if str(subnet.size) in self.by_size else None
