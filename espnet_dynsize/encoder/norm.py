"""Norms that are right for every subnet."""

from collections.abc import Sequence

import torch

from espnet_dynsize.subnet import PerSize, Subnet, Switch, copies


class ChannelLayerNorm(torch.nn.LayerNorm):
    """LayerNorm over the channels of [B, C, T]; takes the place of BatchNorm1d."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class SizedNorm(PerSize):
    """Mixin for a norm that treats each subnet's sequences apart."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise [B, …] with what belongs to each sequence's subnet."""
        members = self.switch.computing or [(self.switch.subnet, x.size(0))]
        rows = x.split([n for _, n in members])
        outputs = [self._normalise(row, s) for row, (s, _) in zip(rows, members)]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


class SizedBatchNorm1d(SizedNorm, torch.nn.BatchNorm1d):
    """BatchNorm1d whose running statistics exist once per size.

    The full size keeps the stock buffer names, so stock checkpoints load. While
    searching, the gated subnet stands for every smaller size.

    Args:
        num_features: Channels C of the input [B, C, T].
        smaller: The sizes below the full one.
        switch: Names the subnets that compute.
    """

    def __init__(self, num_features: int, smaller: Sequence[int], switch: Switch):
        super().__init__(num_features)
        self.switch = switch
        self.by_size = torch.nn.ModuleDict(
            {str(n): torch.nn.BatchNorm1d(num_features, affine=False) for n in smaller}
        )

    def _normalise(self, x: torch.Tensor, subnet: Subnet | None) -> torch.Tensor:
        own = self.own(subnet)
        if own is None:
            return torch.nn.BatchNorm1d.forward(self, x)
        if subnet.gates is None:
            return self._affine(own(x))
        return self._affine([norm(x) for norm in self.by_size.values()][0])

    def _affine(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight[:, None] + self.bias[:, None]


class SizedLayerNorm(SizedNorm, torch.nn.LayerNorm):
    """LayerNorm whose weight and bias exist once per size, as in slimmable networks.

    The full size keeps the stock parameter names. While searching, the gated subnet
    uses those of the smallest size, and all others start from them afterwards.

    Args:
        stock: The norm to take over; every size starts from its weights.
        smaller: The sizes below the full one, increasing.
        switch: Names the subnets that compute.
    """

    def __init__(self, stock: torch.nn.LayerNorm, smaller: Sequence[int], switch):
        super().__init__(stock.normalized_shape, eps=stock.eps)
        self.load_state_dict(stock.state_dict())
        self.switch = switch
        self.by_size = copies(stock, smaller)

    def _normalise(self, x: torch.Tensor, subnet: Subnet | None) -> torch.Tensor:
        own = self.own(subnet) or self
        return torch.nn.functional.layer_norm(
            x, self.normalized_shape, own.weight, own.bias, self.eps
        )
