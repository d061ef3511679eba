"""What every supernet encoder shares: its layers, its units and its switch."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Annotated, Literal

import torch

from espnet_dynsize.core.compact import unpack_states
from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.core.keys import refuse_moved
from espnet_dynsize.core.schema import Count, NotEmpty, Range, check_value
from espnet_dynsize.core.signature import merged_signature
from espnet_dynsize.core.subnet import Sampled, Subnet
from espnet_dynsize.encoder.front_end import FRONT_ENDS, share_front_end
from espnet_dynsize.encoder.kinds import Layer
from espnet_dynsize.encoder.layers import Block
from espnet_dynsize.encoder.norm import SizedBatchNorm1d
from espnet_dynsize.encoder.sparse import is_matrix
from espnet_dynsize.encoder.switch import Switch

Granularity = Literal["layer", "component"]
Units = Annotated[list[Annotated[int, Range(0)]], NotEmpty()]
FFN_CHUNKS = 4
# Stock options that cannot be combined with subnets, and why.
_REFUSED = {
    "stochastic_depth_rate": "use layer_drop_joint, which knows the subnets",
    "layer_drop_rate": "use layer_drop_joint, which knows the subnets",
    "gradient_checkpoint_layers": "the second forward pass would not know the subnet",
}


class Supernet:
    """Mixin that makes an ESPnet encoder's residual layers skippable or gated.

    Put it before the stock encoder among the bases and set `block_class`. All stock
    options are understood; parameter names are the stock ones. The encoder builds
    modules and offers units; which of them train or compute is not its business: the
    `switch` names the subnet that computes, without one the full network does.

    Args:
        input_size: Feature dimension.
        granularity: What can be kept or dropped, a unit: a `layer`, or a `component`
            of one (an attention head, a chunk of feed-forward channels, any other
            module).
        ffn_chunks: With `component` only, into how many chunks a feed-forward layer is
            cut; must divide its channels (`linear_units`). Left out: 4.
        skip_empty_blocks: A block without kept layers loses its final norm, too. For
            sizes that are whole blocks, as those of `selector: first`.
        keep_layers: Build these layers only: what `extract` writes for a cut model.
        keep_components: The same with `granularity: component`.
        **stock: Options of the stock encoder. Its `input_layer` can also be one of
            `front_ends`.

    Attributes:
        front_ends: Name of an `input_layer` that ESPnet lacks → its class.

    Raises:
        ConfigError: a value is not allowed.
    """

    block_class: type[Block]
    front_ends = FRONT_ENDS
    input_size: int
    is_cut: bool
    switch: Switch

    def __init__(
        self,
        input_size: int,
        granularity: Granularity = "layer",
        ffn_chunks: Count | None = None,
        skip_empty_blocks: bool = False,
        keep_layers: Units | None = None,
        keep_components: Units | None = None,
        **stock,
    ):
        refuse_moved(stock)
        for option, why in _REFUSED.items():
            if stock.get(option):
                raise ConfigError(
                    f"{option}={stock[option]} is not for a supernet: {why}."
                )
        check_value("encoder_conf: granularity", granularity, Granularity)
        if granularity == "component":
            ffn_chunks = ffn_chunks or FFN_CHUNKS
        else:
            allowed = "left out with granularity=layer"
            check(ffn_chunks is None, "encoder_conf: ffn_chunks", ffn_chunks, allowed)
        front_end = self.front_ends.get(stock.get("input_layer"))
        if front_end is not None:
            # ESPnet refuses names that it does not know; of its `conv2d`, only the
            # positional encoding is kept.
            stock["input_layer"] = "conv2d"
        # ESPnet builds its blocks with its names; then their classes are swapped.
        try:
            super().__init__(input_size, **stock)
        except ValueError as error:  # such as an unknown input_layer
            raise ConfigError(f"encoder_conf: {error}.") from error
        if front_end is not None:
            pos_enc = getattr(self.embed, "pos_enc", None)
            self.embed = front_end(input_size, self.output_size(), 0.0, pos_enc)
        self.register_load_state_dict_pre_hook(_make_dense)
        self.input_size = input_size
        self.is_cut = keep_layers is not None or keep_components is not None
        self.switch = Switch()
        # ESPnet's Transformer has none with `input_layer: null` where sizes are equal.
        if self.embed is not None:
            share_front_end(self.embed, self.switch)
        self._take_over_blocks(ffn_chunks, skip_empty_blocks)
        # Built whole and cut afterwards: units keep the numbers that they have in the
        # supernet, and so do the blocks in a checkpoint.
        for key, kept in (
            ("keep_layers", keep_layers),
            ("keep_components", keep_components),
        ):
            if kept is not None:
                goes = key == f"keep_{granularity}s"
                check(goes, key, kept, f"left out with granularity={granularity}")
                self.keep_units(kept, key)

    def __init_subclass__(cls, **kwargs):
        """Show all options in the signature: `--print_config` lists them from there."""
        super().__init_subclass__(**kwargs)
        cls.__signature__ = merged_signature(cls, Supernet)

    def _take_over_blocks(self, ffn_chunks: int | None, skip_empty: bool) -> None:
        # Units are counted in the order in which they compute, over all blocks.
        first = 0
        for stock_block in self.stock_blocks:
            block = self.block_of(stock_block).take_over(
                stock_block, first, self.switch, ffn_chunks, skip_empty
            )
            first = block.units.stop

    @property
    def stock_blocks(self) -> Iterable[torch.nn.Module]:
        """The blocks whose layers are chosen, as ESPnet builds them."""
        return self.encoders

    def block_of(self, block: torch.nn.Module) -> type[Block]:
        """The class that a stock block gets."""
        return self.block_class

    @property
    def blocks(self) -> list[Block]:
        return list(self.stock_blocks)

    @property
    def layers(self) -> list[Layer]:
        """All layers in the order in which they compute."""
        return [layer for block in self.blocks for layer in block.layers]

    @property
    def num_units(self) -> int:
        return self.blocks[-1].units.stop

    def activate(self, chosen: Subnet | Sampled) -> AbstractContextManager[None]:
        """Let `chosen` compute inside the `with` block, in this thread.

        Raises:
            ConfigError: it is not a subnet of this encoder.
        """
        if not isinstance(chosen, Subnet | Sampled):
            raise ConfigError(
                f"activate({chosen!r}) of an encoder takes a Subnet; a supernet's "
                "model takes sizes (asr_model.activate(16))."
            )
        sampled = Sampled(chosen) if isinstance(chosen, Subnet) else chosen
        self.check_units(sampled.subnet)
        if sampled.subnet.sparsity and sampled.masks is None:
            raise ConfigError(
                "activate of an encoder has no masks for a sparse Subnet; its model "
                "has (asr_model.activate)."
            )
        return self.switch.activate(chosen)

    def check_units(self, subnet: Subnet) -> None:
        """Refuse a subnet of another encoder.

        Raises:
            ConfigError: it has not as many units.
        """
        number = len(subnet.units)
        allowed = f"{self.num_units}, the encoder's"
        check(number == self.num_units, "subnet: num_units", number, allowed)

    def make_sized(self, smaller: list[int]) -> None:
        """Give every smaller size norm statistics of its own.

        Args:
            smaller: The sizes below the full one.
        """
        for block in self.blocks:
            for name, module in list(block.named_modules()):
                # Not `isinstance`: one that is sized already is a BatchNorm1d, too.
                if type(module) is torch.nn.BatchNorm1d:
                    sized = SizedBatchNorm1d(module, smaller, self.switch)
                    owner, _, leaf = name.rpartition(".")
                    setattr(block.get_submodule(owner), leaf, sized)

    def matrices(self) -> dict[str, torch.nn.Module]:
        """Name → weight matrix of a layer: linear, or a pointwise convolution."""
        places = {id(m): n for n, m in self.named_modules(prefix="")}
        return {
            f"{places[id(block)]}.{name}": module
            for block in self.blocks
            for layer in block.layers
            for first, part in layer.modules(block).items()
            for name, module in part.named_modules(prefix=first)
            if is_matrix(module)
        }

    def keep_units(self, units: list[int], key: str = "units") -> None:
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
        subnet = Subnet.of(units, self.num_units)
        for block in self.blocks:
            block.keep(subnet)


def _make_dense(module: torch.nn.Module, states: dict, prefix: str, *args) -> None:
    """ESPnet loads checkpoints itself; sparse ones are compact."""
    unpack_states(states, "the checkpoint", prefix)
