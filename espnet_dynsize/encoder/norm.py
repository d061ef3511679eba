"""Norms for the convolution module that are right for every subnet."""

from collections.abc import Sequence

import torch

from espnet_dynsize.subnet import Subnet, Switch


class ChannelLayerNorm(torch.nn.LayerNorm):
    """LayerNorm over the channels of [B, C, T]; takes the place of BatchNorm1d."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class SizedBatchNorm1d(torch.nn.BatchNorm1d):
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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        members = self.switch.computing or [(self.switch.subnet, x.size(0))]
        rows = x.split([n for _, n in members])
        outputs = [self._normalise(row, s) for row, (s, _) in zip(rows, members)]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _normalise(self, x: torch.Tensor, subnet: Subnet | None) -> torch.Tensor:
        if subnet is not None and subnet.gates is not None:
            outputs = [norm(x) for norm in self.by_size.values()]
            return self._affine(outputs[0]) if outputs else super().forward(x)
        if subnet is None or str(subnet.size) not in self.by_size:
            return super().forward(x)
        return self._affine(self.by_size[str(subnet.size)](x))

    def _affine(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight[:, None] + self.bias[:, None]


class SizedLayerNorm(torch.nn.LayerNorm):
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
        self.switch = switch
        self.by_size = torch.nn.ModuleDict()
        for size in smaller:
            self.by_size[str(size)] = torch.nn.LayerNorm(stock.normalized_shape)
        for norm in (super(), *self.by_size.values()):
            norm.load_state_dict(stock.state_dict(), strict=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise [B, T, D] with each subnet's own weights."""
        members = self.switch.computing or [(self.switch.subnet, x.size(0))]
        rows = x.split([n for _, n in members])
        outputs = [self._normalise(row, s) for row, (s, _) in zip(rows, members)]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    @torch.no_grad()
    def begin_joint(self) -> None:
        """Give what the gated subnet has learned to every smaller size."""
        norms = list(self.by_size.values())
        for norm in norms[1:]:
            norm.load_state_dict(norms[0].state_dict())

    def _normalise(self, x: torch.Tensor, subnet: Subnet | None) -> torch.Tensor:
        own = self
        if subnet is not None and self.by_size:
            if subnet.gates is not None:
                own = next(iter(self.by_size.values()))
            elif str(subnet.size) in self.by_size:
                own = self.by_size[str(subnet.size)]
        return torch.nn.functional.layer_norm(
            x, self.normalized_shape, own.weight, own.bias, self.eps
        )
