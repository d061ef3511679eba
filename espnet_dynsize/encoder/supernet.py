"""What every supernet encoder shares: its layers, its schedule and its switch."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch

from espnet_dynsize.encoder.residual import Layer, ResidualLayers
from espnet_dynsize.errors import ConfigError
from espnet_dynsize.selection.schedule import SubnetSchedule
from espnet_dynsize.subnet import Part, Subnet, Switch


class Supernet:
    """Mixin for an ESPnet encoder whose `encoders` are `ResidualLayers`s.

    `schedule` knows which units each size keeps; `switch` names the subnet that
    computes. Outside `activate`, the fixed `subnet` of the config computes, else the
    full network.
    """

    schedule: SubnetSchedule | None
    switch: Switch
    fixed_size: int | None

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

    def encode_parts(
        self,
        xs_pad: torch.Tensor,
        ilens: torch.Tensor,
        subnets: Sequence[Subnet],
        rows: Sequence[torch.Tensor | None],
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Encode a batch with several subnets in one pass.

        What a subnet computes like the first one, up to the first layer in which they
        differ, is computed once.

        Args:
            xs_pad: [B, L, D].
            ilens: [B].
            subnets: The first one encodes the whole batch.
            rows: For each subnet the sequences [n] that it encodes; None for the first.

        Returns:
            For each subnet, outputs [n, T, D'] and lengths [n].
        """
        parts = [
            Part(subnet, own, self._fork(subnets[0], subnet) if i else 0)
            for i, (subnet, own) in enumerate(zip(subnets, rows))
        ]
        with self.switch.activate_parts(parts):
            out, lengths, _ = self(xs_pad, ilens)
        forked = [p for p in parts[1:] if p.fork < self.num_units]
        forked.sort(key=lambda part: part.fork)
        sizes = [len(p.rows) for p in forked]
        sizes.insert(0, out.size(0) - sum(sizes))
        pieces = list(zip(out.split(sizes), lengths.split(sizes)))
        own = dict(zip(map(id, forked), pieces[1:]))
        first, first_lengths = pieces[0]
        return [pieces[0]] + [
            own.get(id(p)) or (first[p.rows], first_lengths[p.rows]) for p in parts[1:]
        ]

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

    def _apply_fixed_size(self) -> None:
        """Let the config's `subnet` compute, here and in the output layer after it.

        Raises:
            ConfigError: the checkpoint is from the search phase.
        """
        if self.fixed_size is not None and self.switch.subnet is None:
            self.switch.default = self.schedule.subnet(self.fixed_size)
