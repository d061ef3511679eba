"""Norms that are right for every subnet."""

from collections.abc import Iterable, Sequence
from typing import Literal

import torch

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.schema import check_value
from espnet_dynsize.core.subnet import FULL
from espnet_dynsize.encoder.switch import Switch

ConvNorm = Literal["batch_norm", "layer_norm"]


class ChannelLayerNorm(torch.nn.LayerNorm):
    """LayerNorm over the channels of [B, C, T]; takes the place of BatchNorm1d."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # [B, C, T] -> [B, T, C] and back: LayerNorm norms the last dimension.
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def set_conv_norm(blocks: Iterable[torch.nn.Module], conv_norm: ConvNorm) -> None:
    """Give the convolution modules of Conformer blocks their norm.

    Args:
        blocks: As ESPnet builds them, with batch norms.
        conv_norm: What the option of that name says.

    Raises:
        ConfigError: it is not allowed.
    """
    check_value("encoder_conf: conv_norm", conv_norm, ConvNorm)
    for block in blocks if conv_norm == "layer_norm" else []:
        # None without `use_cnn_module`, or where a cut model has lost the layer.
        module = getattr(block, "conv_module", None) or getattr(block, "conv_mod", None)
        norm = getattr(module, "norm", None)
        # In E-Branchformers, it is a layer norm.
        if isinstance(norm, torch.nn.BatchNorm1d):
            # What is called `norm` is handed [B, C, T] by ESPnet's module.
            module.norm = ChannelLayerNorm(norm.num_features)


class SizedBatchNorm1d(torch.nn.BatchNorm1d):
    """BatchNorm1d whose running statistics exist once per size.

    The full size keeps the stock buffer names, so stock checkpoints load. While
    searching, the gated subnet stands for every smaller size: it uses the statistics of
    the smallest, and all others start from these afterwards.

    Args:
        stock: The norm to take over.
        smaller: The sizes below the full one.
        switch: Names the subnet that computes, and so whose statistics are used.

    Attributes:
        by_size: The statistics of the smaller sizes, increasing.
    """

    def __init__(
        self, stock: torch.nn.BatchNorm1d, smaller: Sequence[int], switch: Switch
    ):
        super().__init__(stock.num_features, stock.eps, stock.momentum)
        self.load_state_dict(stock.state_dict())
        self.switch = switch
        # Scale and shift are shared: only the statistics differ so much between subnets
        # that one set would be wrong for both. Names of modules are strings, as are
        # heads; the order is that of insertion, and `begin_joint` takes the first for
        # the smallest.
        self.by_size = torch.nn.ModuleDict(
            {
                str(size): torch.nn.BatchNorm1d(
                    stock.num_features, stock.eps, stock.momentum, affine=False
                )
                for size in sorted(smaller)
            }
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise [B, C, T] with the subnet's statistics.

        Raises:
            ConfigError: there are none for its head.
        """
        now = self.switch.now
        if now is None or now.subnet.head == FULL:
            return super().forward(x)
        if now.subnet.head not in self.by_size:
            raise ConfigError(
                f"head={now.subnet.head} must be one of {[FULL, *self.by_size]}."
            )
        # Normalised only (`affine=False`), then [C, 1] against [B, C, T].
        normalised = self.by_size[now.subnet.head](x)
        return normalised * self.weight[:, None] + self.bias[:, None]

    def begin_training(self) -> None:
        """Let every smaller size start from the full one, which may be pretrained."""
        states = self.state_dict()
        for module in self.by_size.values():
            names = module.state_dict().keys()
            module.load_state_dict({name: states[name] for name in names})

    def begin_joint(self) -> None:
        """Give what the gated subnet has gathered to every smaller size."""
        smallest, *others = self.by_size.values()
        for module in others:
            module.load_state_dict(smallest.state_dict())
