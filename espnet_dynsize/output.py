"""Output layers and decoders, one per size."""

from collections.abc import Sequence

import torch

from espnet_dynsize.subnet import PerSize, Switch, copies


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
        with torch.random.fork_rng(devices=()):
            super().__init__(stock.in_features, stock.out_features)
        self.load_state_dict(stock.state_dict())
        self.switch = switch
        self.by_size = copies(stock, smaller)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Project [..., in_features] with the active subnet's weights."""
        own = self.own(self.switch.subnet)
        return super().forward(x) if own is None else own(x)


def make_decoder_sized(
    decoder: torch.nn.Module, smaller: Sequence[int], switch: Switch
) -> None:
    """Give a decoder a copy for every smaller size, in its `by_size`.

    The decoder itself is the full size's and keeps its class's parameter names.

    Args:
        decoder: ESPnet's decoder.
        smaller: The sizes below the full one.
        switch: Names the active subnet.
    """
    by_size = copies(decoder, smaller)
    stock = type(decoder)
    decoder.__class__ = type(f"Sized{stock.__name__}", (PerSize, stock), {})
    decoder.switch = switch
    decoder.by_size = by_size
