"""What every supernet encoder shares: its layers, its schedule and its switch."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch

from espnet_dynsize.encoder.family import (
    GRANULARITIES,
    encoder_family,
    units_to_keep,
)
from espnet_dynsize.encoder.front_end import FRONT_ENDS
from espnet_dynsize.encoder.norm import SizedLayerNorm
from espnet_dynsize.encoder.residual import Layer, ResidualLayers
from espnet_dynsize.errors import ConfigError, check
from espnet_dynsize.selection import build_schedule
from espnet_dynsize.selection.schedule import SubnetSchedule
from espnet_dynsize.subnet import Part, Subnet, Switch

# Stock options that cannot be combined with subnets, and why.
_REFUSED = {
    "stochastic_depth_rate": "use layer_drop_joint, which knows the subnets",
    "layer_drop_rate": "use layer_drop_joint, which knows the subnets",
    "gradient_checkpoint_layers": "the second forward pass would not know the subnet",
}


class Supernet:
    """Mixin that makes an ESPnet encoder's residual layers skippable or gated.

    Put it before the stock encoder among the bases and set `block_class`. All stock
    options are understood; parameter names are the stock ones. Method: *Dynamic
    Encoder Size* (arXiv 2407.18930).

    `schedule` knows which units each size keeps; `switch` names the subnet that
    computes. Outside `activate`, the fixed `subnet` of the config computes, else the
    full network.

    Args:
        input_size: Feature dimension.
        sizes: Layers kept by each subnet, increasing, ending with all layers.
        budgets: Instead of `sizes`, parts of the encoder's cost that each subnet may
            have, as `{flops: [0.4, 1]}` or `{params: [0.4, 1]}`, ending with 1. The
            sizes are then named by their per cent.
        granularity: What is kept or dropped: a `layer`, or a `component` of one (an
            attention head, a chunk of feed-forward channels, any other module).
        ffn_chunks: Into how many chunks a feed-forward layer is cut.
        selector: How layers are chosen: see `espnet_dynsize.selection.SELECTORS`, or
            the dotted path of your own `LayerSelector`.
        selector_conf: The selector's options.
        layer_drop_joint: Stochastic depth in the joint phase, for the layers of the
            full network that the smallest subnet lacks.
        layer_drop_search: The same while searching, for the layers that the gated
            subnet lacks.
        norm_per_size: The layers' norms have weights of their own for every size.
        skip_empty_blocks: A block without kept layers loses its final norm, too.
        subnet: Compute this size when nothing else is active (decoding).
        keep_layers: Build these layers only (an extracted model); excludes `sizes`.
        keep_components: The same with `granularity: component`.
        **stock: Options of the stock encoder. Its `input_layer` can also be one of
            `FRONT_ENDS`.

    Raises:
        ConfigError: a value is not allowed.
    """

    block_class: type[ResidualLayers]
    schedule: SubnetSchedule | None
    switch: Switch
    fixed_size: int | None

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
        norm_per_size: bool = False,
        skip_empty_blocks: bool = False,
        subnet: int | None = None,
        keep_layers: list[int] | None = None,
        keep_components: list[int] | None = None,
        **stock,
    ):
        for option, why in _REFUSED.items():
            if stock.get(option):
                raise ConfigError(
                    f"{option}={stock[option]} is not for a supernet: {why}."
                )
        allowed = f"one of {GRANULARITIES}"
        check(granularity in GRANULARITIES, "granularity", granularity, allowed)
        front_end = FRONT_ENDS.get(stock.get("input_layer"))
        if front_end is not None:
            stock["input_layer"] = "conv2d"
        super().__init__(input_size, **stock)
        if front_end is not None:
            self.embed = front_end(
                input_size, self.output_size(), 0.0, self.embed.pos_enc
            )
        self.switch = Switch()
        self.fixed_size, self.schedule = None, None
        chunks = ffn_chunks if granularity == "component" else None
        self._take_over_blocks(chunks, skip_empty_blocks)
        kept = units_to_keep(keep_layers, keep_components, granularity, sizes, budgets)
        if kept is not None:
            self.keep_units(kept[1], kept[0])
        else:
            family = encoder_family(self, input_size, sizes, budgets, granularity)
            # A stock model of the same seed starts from the same weights.
            with torch.random.fork_rng(devices=()):
                self.schedule = build_schedule(
                    selector,
                    selector_conf or {},
                    family,
                    layer_drop_joint,
                    layer_drop_search,
                )
        self.fixed_size = self._check_subnet(subnet)
        if norm_per_size and self.schedule is not None:
            self._replace_layer_norms()

    def __init_subclass__(cls, **kwargs):
        """Show all options in the signature: `--print_config` lists them from there."""
        super().__init_subclass__(**kwargs)
        options: dict[str, inspect.Parameter] = {}
        for base in cls.__mro__:
            if "__init__" in vars(base):
                for name, option in inspect.signature(base.__init__).parameters.items():
                    options.setdefault(name, option)
                if not issubclass(base, Supernet):
                    break  # the stock encoder
        cls.__signature__ = inspect.Signature(
            [
                option
                for name, option in options.items()
                if name != "self" and option.kind is not inspect.Parameter.VAR_KEYWORD
            ]
        )

    def _take_over_blocks(self, ffn_chunks: int | None, skip_empty: bool) -> None:
        first = 0
        for block in self.encoders:
            own = self.block_class.take_over(
                block, first, self.switch, ffn_chunks, skip_empty
            )
            first = own.units.stop

    def _check_subnet(self, subnet: int | None) -> int | None:
        sizes = self.schedule.sizes if self.schedule is not None else ()
        if subnet is not None and subnet not in sizes:
            raise ConfigError(
                f"subnet={subnet} is not in sizes: it must be one of {list(sizes)}."
            )
        return subnet

    def _replace_layer_norms(self) -> None:
        # Not the encoder's last norm: the output layer after it is per size, too.
        for block in self.blocks:
            for name, norm in list(block.named_children()):
                if isinstance(norm, torch.nn.LayerNorm):
                    sized = SizedLayerNorm(norm, self.schedule.sizes[:-1], self.switch)
                    setattr(block, name, sized)

    def forward(self, xs_pad: torch.Tensor, ilens: torch.Tensor, *args, **kwargs):
        """Encode [B, L, input_size] to [B, T, D]; see the stock encoder's `forward`."""
        self.active_subnet()
        return super().forward(xs_pad, ilens, *args, **kwargs)

    @property
    def blocks(self) -> list[ResidualLayers]:
        return list(self.encoders)

    @property
    def layers(self) -> list[Layer]:
        """All layers in the order in which they compute."""
        return [layer for block in self.blocks for layer in block.layers]

    @property
    def num_units(self) -> int:
        return self.blocks[-1].units.stop

    def activate(self, subnet: Subnet | int) -> AbstractContextManager[Subnet]:
        """Let `subnet`, or that of a size, compute inside the `with` block.

        Raises:
            ConfigError: the size is not in the family, or has no fixed mask yet.
        """
        if isinstance(subnet, int):
            subnet = self.schedule.subnet(subnet)
        return self.switch.activate(subnet)

    @contextmanager
    def shared_front_end(self) -> Iterator[list]:
        """Run `embed` (subsampling, positions) once for all calls inside.

        Yields:
            A list that holds what `embed` has returned, after the first call.
        """
        first: list = []
        if self.embed is None:
            yield first
            return
        forward = self.embed.forward

        def once(*inputs):
            if not first:
                first.append(forward(*inputs))
            return first[0]

        self.embed.forward = once
        try:
            yield first
        finally:
            del self.embed.forward

    def encode_subnets(
        self, xs_pad: torch.Tensor, ilens: torch.Tensor, subnets: Sequence[Subnet]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Encode a batch with several subnets in one pass.

        What a subnet computes like the first one, up to the first layer in which they
        differ, is computed once.

        Args:
            xs_pad: [B, L, D].
            ilens: [B].
            subnets: At least one.

        Returns:
            For each subnet, outputs [B, T, D'] and lengths [B].
        """
        forks = [self._fork(subnets[0], subnet) for subnet in subnets[1:]]
        parts = [Part(s, f) for s, f in zip(subnets, [0, *forks])]
        with self.switch.activate_parts(parts):
            out, lengths, _ = self(xs_pad, ilens)
        pieces = list(zip(out.split(len(ilens)), lengths.split(len(ilens))))
        forked = [i for i, fork in enumerate(forks, 1) if fork < self.num_units]
        forked.sort(key=lambda i: parts[i].fork)  # stable, as the blocks do it
        own = dict(zip(forked, pieces[1:]))
        return [own.get(i, pieces[0]) for i in range(len(subnets))]

    def _fork(self, first: Subnet, other: Subnet) -> int:
        """First unit of the first layer in which the subnets differ."""
        for block in self.blocks:
            for layer in block.layers:
                sized = block.is_sized(layer) and first.size != other.size
                if sized or not first.same(other, layer.units):
                    return layer.units.start
        return self.num_units

    def keep_units(self, units: Sequence[int], key: str) -> None:
        """Delete every unit that is not in `units`.

        Args:
            units: Positions.
            key: The config's key that names them, for messages.

        Raises:
            ConfigError: a position is not one of the encoder's.
        """
        if not set(units) <= set(range(self.num_units)):
            raise ConfigError(
                f"{key}={list(units)} must be indices from 0 to {self.num_units - 1}."
            )
        for block in self.blocks:
            block.keep(set(units))

    def active_subnet(self) -> Subnet | None:
        """What computes now: what is activated, else the config's `subnet`.

        Raises:
            ConfigError: `subnet` is set and the checkpoint is from the search phase.
        """
        if self.fixed_size is not None and self.switch.subnet is None:
            self.switch.default = self.schedule.subnet(self.fixed_size)
        return self.switch.subnet
