"""Norms that are right for every subnet."""

from collections.abc import Sequence

import torch

from espnet_dynsize.encoder.heads import PerSize, copies
from espnet_dynsize.encoder.switch import Switch


class ChannelLayerNorm(torch.nn.LayerNorm):
    """LayerNorm over the channels of [B, C, T]; takes the place of BatchNorm1d."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # [B, C, T] -> [B, T, C] and back: LayerNorm norms the last dimension.
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class SizedBatchNorm1d(PerSize, torch.nn.BatchNorm1d):
    """BatchNorm1d whose running statistics exist once per size.

    The full size keeps the stock buffer names, so stock checkpoints load. While
    searching, the gated subnet stands for every smaller size.

    Args:
        stock: The norm to take over.
        smaller: The sizes below the full one.
        switch: Names the subnet that computes.
    """

    def __init__(
        self, stock: torch.nn.BatchNorm1d, smaller: Sequence[int], switch: Switch
    ):
        super().__init__(stock.num_features, stock.eps, stock.momentum)
        self.load_state_dict(stock.state_dict())
        self.switch = switch
        # Scale and shift are shared: only the statistics differ so much between subnets
        # that one set would be wrong for both.
        statistics = torch.nn.BatchNorm1d(
            stock.num_features, stock.eps, stock.momentum, affine=False
        )
        self.by_size = copies(statistics, smaller)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise [B, C, T] with the subnet's statistics."""
        statistics = self.of_size()
        if statistics is None:
            return super().forward(x)
        # Normalised only (`affine=False`), then [C, 1] against [B, C, T].
        return statistics(x) * self.weight[:, None] + self.bias[:, None]
