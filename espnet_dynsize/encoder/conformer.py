"""`dynsize_conformer`: ESPnet's Conformer as a supernet."""

from collections.abc import Sequence

import torch
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder

from espnet_dynsize.encoder.block import SupernetBlock
from espnet_dynsize.encoder.cost import unit_flops, unit_params
from espnet_dynsize.encoder.norm import (
    ChannelLayerNorm,
    SizedBatchNorm1d,
    SizedLayerNorm,
)
from espnet_dynsize.encoder.supernet import Supernet
from espnet_dynsize.errors import ConfigError
from espnet_dynsize.selection import build_schedule
from espnet_dynsize.selection.family import (
    Family,
    family_of_budgets,
    family_of_counts,
)
from espnet_dynsize.subnet import Switch

GRANULARITIES = ("layer", "component")
BUDGETS = ("flops", "params")


class DynSizeConformerEncoder(Supernet, ConformerEncoder):
    """Conformer whose residual layers can be skipped or gated.

    Every stock option of `ConformerEncoder` is understood; parameter names are the
    stock ones. Method: *Dynamic Encoder Size* (arXiv 2407.18930).

    Args:
        input_size: Feature dimension.
        sizes: Layers kept by each subnet, increasing, ending with all layers. A block
            has four layers with `macaron_style` and the convolution module.
        budgets: Instead of `sizes`, parts of the encoder's cost that each subnet may
            have, as `{flops: [0.4, 1]}` or `{params: [0.4, 1]}`, ending with 1. The
            sizes are then named by their per cent.
        granularity: What is kept or dropped: a `layer`, or a `component` of one (an
            attention head, a chunk of feed-forward channels, a convolution module).
        ffn_chunks: Into how many chunks a feed-forward layer is cut.
        selector: How layers are chosen: see `espnet_dynsize.selection.SELECTORS`, or
            the dotted path of your own `LayerSelector`.
        selector_conf: The selector's options.
        layer_drop_joint: Stochastic depth in the joint phase, for the layers of the
            full network that the smallest subnet lacks.
        layer_drop_search: The same while searching, for the layers that the gated
            subnet lacks.
        conv_norm: Norm in the convolution module: `layer_norm`, or `batch_norm` with
            statistics per size.
        norm_per_size: The layers' norms have weights of their own for every size.
        skip_empty_blocks: A block without kept layers loses its final norm, too.
        subnet: Compute this size when nothing else is active (decoding).
        keep_layers: Build these layers only (an extracted model); excludes `sizes`.
        keep_components: The same with `granularity: component`.
        **stock: Options of `ConformerEncoder`.

    Raises:
        ConfigError: a value is not allowed.
    """

    def __init__(
        self,
        input_size: int,
        sizes: Sequence[int] | None = None,
        budgets: dict[str, Sequence[float]] | None = None,
        granularity: str = "layer",
        ffn_chunks: int = 4,
        selector: str = "simple_top_k",
        selector_conf: dict | None = None,
        layer_drop_joint: float = 0.0,
        layer_drop_search: float = 0.0,
        conv_norm: str = "layer_norm",
        norm_per_size: bool = False,
        skip_empty_blocks: bool = False,
        subnet: int | None = None,
        keep_layers: list[int] | None = None,
        keep_components: list[int] | None = None,
        **stock,
    ):
        if stock.get("stochastic_depth_rate", 0.0) not in (0, 0.0):
            raise ConfigError(
                f"stochastic_depth_rate={stock['stochastic_depth_rate']} is not for a "
                "supernet: use layer_drop_joint."
            )
        if granularity not in GRANULARITIES:
            raise ConfigError(
                f"granularity={granularity} must be one of {list(GRANULARITIES)}."
            )
        super().__init__(input_size, **stock)
        self.switch = Switch()
        self.fixed_size, self.schedule = None, None
        chunks = ffn_chunks if granularity == "component" else None
        self._replace_blocks(chunks, skip_empty_blocks)
        kept = {"keep_layers": keep_layers, "keep_components": keep_components}
        if not self._keep_only(kept, granularity, sizes, budgets):
            family = self._family(input_size, sizes, budgets, granularity)
            self.schedule = build_schedule(
                selector,
                selector_conf or {},
                family,
                layer_drop_joint,
                layer_drop_search,
            )
        self.fixed_size = self._check_subnet(subnet)
        self._replace_conv_norms(conv_norm)
        if norm_per_size and self.schedule is not None:
            self._replace_layer_norms()

    def _replace_blocks(self, ffn_chunks: int | None, skip_empty: bool) -> None:
        first = 0
        for i, stock in enumerate(self.encoders):
            block = SupernetBlock(stock, first, self.switch, ffn_chunks, skip_empty)
            self.encoders[i] = block
            first = block.units.stop

    def _keep_only(self, kept: dict, granularity: str, sizes, budgets) -> bool:
        """Delete what an extracted model lacks; False where there is a family."""
        given = {key: units for key, units in kept.items() if units is not None}
        if not given:
            return False
        ((key, units), *_) = given.items()
        if key != f"keep_{granularity}s":
            raise ConfigError(f"{key} does not go with granularity={granularity}.")
        if sizes is not None or budgets is not None:
            family = f"sizes={sizes}" if sizes is not None else f"budgets={budgets}"
            raise ConfigError(
                f"{key} and {family} exclude each other: an extracted model has one "
                "size."
            )
        self.keep_units(units, key)
        return True

    def _family(self, input_size: int, sizes, budgets, granularity: str) -> Family:
        if budgets is None:
            if sizes is not None and granularity == "component":
                raise ConfigError(
                    f"sizes={list(sizes)} counts layers: with granularity=component "
                    "give budgets."
                )
            return family_of_counts(sizes, self.num_units)
        if sizes is not None:
            raise ConfigError(
                f"sizes={list(sizes)} and budgets={budgets} exclude each other."
            )
        if len(budgets) != 1 or set(budgets) - set(BUDGETS):
            raise ConfigError(
                f"budgets={budgets} must have one key of {list(BUDGETS)}, with a list."
            )
        ((kind, fractions),) = budgets.items()
        cost = unit_params(self) if kind == "params" else unit_flops(self, input_size)
        return family_of_budgets(kind, fractions, *cost)

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

    def _replace_layer_norms(self) -> None:
        # Not the encoder's last norm: the output layer after it is per size, too.
        for block in self.blocks:
            for name, norm in list(block.named_children()):
                if isinstance(norm, torch.nn.LayerNorm):
                    sized = SizedLayerNorm(norm, self.schedule.sizes[:-1], self.switch)
                    setattr(block, name, sized)

    def forward(self, xs_pad: torch.Tensor, ilens: torch.Tensor, *args, **kwargs):
        """Encode [B, L, input_size] to [B, T, D]; see `ConformerEncoder.forward`."""
        self._apply_fixed_size()
        return super().forward(xs_pad, ilens, *args, **kwargs)
