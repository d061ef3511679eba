"""What every supernet encoder shares: its layers, its schedule and its switch."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from espnet_dynsize.encoder.block import Layer, SupernetBlock
from espnet_dynsize.errors import ConfigError
from espnet_dynsize.selection.schedule import SubnetSchedule
from espnet_dynsize.subnet import Subnet, Switch


class Supernet:
    """Mixin for an ESPnet encoder whose `encoders` are `SupernetBlock`s.

    `schedule` knows which layers each size keeps; `switch` names the subnet that
    computes. Outside `activate`, the fixed `subnet` of the config computes, else the
    full network.
    """

    schedule: SubnetSchedule | None
    switch: Switch
    fixed_size: int | None

    @property
    def blocks(self) -> list[SupernetBlock]:
        return list(self.encoders)

    @property
    def layers(self) -> list[tuple[int, Layer]]:
        """All layers as (block number, layer), in the order in which they compute."""
        return [
            (number, layer)
            for number, block in enumerate(self.blocks)
            for layer in block.layers
        ]

    def activate(self, subnet: Subnet) -> AbstractContextManager[Subnet]:
        """Let `subnet` compute inside the `with` block."""
        return self.switch.activate(subnet)

    @contextmanager
    def shared_front_end(self) -> Iterator[None]:
        """Run `embed` (subsampling, positions) once for all calls inside."""
        first: list = []
        forward = self.embed.forward

        def once(*inputs):
            if not first:
                first.append(forward(*inputs))
            return first[0]

        self.embed.forward = once
        try:
            yield
        finally:
            del self.embed.forward

    def remove_dropped(self, keep_layers: Sequence[int]) -> None:
        """Delete every layer that is not in `keep_layers`.

        Raises:
            ConfigError: an index is not one of the encoder's layers.
        """
        layers = self.layers
        if not set(keep_layers) <= set(range(len(layers))):
            raise ConfigError(
                f"keep_layers={list(keep_layers)} must be indices from 0 to "
                f"{len(layers) - 1}."
            )
        for block, layer in layers:
            if layer.index not in keep_layers:
                self.blocks[block].remove(layer)

    def _apply_fixed_size(self) -> None:
        """Let the config's `subnet` compute, here and in the output layer after it.

        Raises:
            ConfigError: the checkpoint is from the search phase.
        """
        if self.fixed_size is not None and self.switch.subnet is None:
            self.switch.default = self.schedule.subnet(self.fixed_size)
