"""`dynsize_conformer`: ESPnet's Conformer as a supernet."""

from collections.abc import Sequence

import torch
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder

from espnet_dynsize.encoder.block import SupernetBlock
from espnet_dynsize.encoder.norm import ChannelLayerNorm, SizedBatchNorm1d
from espnet_dynsize.encoder.supernet import Supernet
from espnet_dynsize.errors import ConfigError
from espnet_dynsize.selection import build_schedule
from espnet_dynsize.subnet import Switch


class DynSizeConformerEncoder(Supernet, ConformerEncoder):
    """Conformer whose residual layers can be skipped or gated.

    Every stock option of `ConformerEncoder` is understood; parameter names are the
    stock ones. Method: *Dynamic Encoder Size* (arXiv 2407.18930).

    Args:
        input_size: Feature dimension.
        sizes: Layers kept by each subnet, increasing, ending with all layers. A block
            has four layers with `macaron_style` and the convolution module.
        selector: How layers are chosen, see `espnet_dynsize.selection`.
        selector_conf: The selector's options.
        layer_drop_joint: Stochastic depth in the joint phase, for the layers of the
            full network that the smallest subnet lacks.
        conv_norm: Norm in the convolution module: `layer_norm`, or `batch_norm` with
            statistics per size.
        subnet: Compute this size when nothing else is active (decoding).
        keep_layers: Build these layers only (an extracted model); excludes `sizes`.
        **stock: Options of `ConformerEncoder`.

    Raises:
        ConfigError: a value is not allowed.
    """

    def __init__(
        self,
        input_size: int,
        sizes: Sequence[int] | None = None,
        selector: str = "simple_top_k",
        selector_conf: dict | None = None,
        layer_drop_joint: float = 0.0,
        conv_norm: str = "layer_norm",
        subnet: int | None = None,
        keep_layers: list[int] | None = None,
        **stock,
    ):
        if stock.get("stochastic_depth_rate", 0.0) not in (0, 0.0):
            raise ConfigError(
                f"stochastic_depth_rate={stock['stochastic_depth_rate']} is not for a "
                "supernet: use layer_drop_joint."
            )
        super().__init__(input_size, **stock)
        self.switch = Switch()
        self._replace_blocks()
        self._build_family(
            sizes, selector, selector_conf or {}, layer_drop_joint, keep_layers
        )
        self.fixed_size = self._check_subnet(subnet)
        self._replace_conv_norms(conv_norm)

    def _replace_blocks(self) -> None:
        first = 0
        for i, stock in enumerate(self.encoders):
            self.encoders[i] = SupernetBlock(stock, first, self.switch)
            first += len(self.encoders[i].layers)

    def _build_family(
        self, sizes, selector, selector_conf, layer_drop_joint, keep_layers
    ):
        self.schedule = None
        if keep_layers is not None:
            if sizes is not None:
                raise ConfigError(
                    f"keep_layers and sizes={list(sizes)} exclude each other: an "
                    "extracted model has one size."
                )
            self.remove_dropped(keep_layers)
            return
        self.schedule = build_schedule(
            selector, selector_conf, len(self.layers), sizes, layer_drop_joint
        )

    def _check_subnet(self, subnet: int | None) -> int | None:
        sizes = self.schedule.sizes if self.schedule is not None else ()
        if subnet is not None and subnet not in sizes:
            raise ConfigError(
                f"subnet={subnet} is not in sizes: it must be one of {list(sizes)}."
            )
        return subnet

    def _replace_conv_norms(self, conv_norm: str) -> None:
        smaller = self.schedule.sizes[:-1] if self.schedule is not None else ()
        make = {
            "layer_norm": lambda channels: ChannelLayerNorm(channels),
            "batch_norm": lambda channels: SizedBatchNorm1d(
                channels, smaller, self.switch
            ),
        }
        if conv_norm not in make:
            raise ConfigError(f"conv_norm={conv_norm} must be one of {sorted(make)}.")
        for block in self.blocks:
            if block.conv_module is not None:
                channels = block.conv_module.norm.num_features
                block.conv_module.norm = make[conv_norm](channels)

    def forward(self, xs_pad: torch.Tensor, ilens: torch.Tensor, *args, **kwargs):
        """Encode [B, L, input_size] to [B, T, D]; see `ConformerEncoder.forward`."""
        self._apply_fixed_size()
        return super().forward(xs_pad, ilens, *args, **kwargs)
