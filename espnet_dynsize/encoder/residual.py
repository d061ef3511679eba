"""Residual layers that several subnets compute together."""

from functools import partial
from typing import NamedTuple

import torch

from espnet_dynsize.encoder import components
from espnet_dynsize.encoder.kinds import KINDS, has_layer
from espnet_dynsize.encoder.norm import SizedNorm
from espnet_dynsize.encoder.stochastic_depth import Share
from espnet_dynsize.subnet import Subnet, Switch


class Layer(NamedTuple):
    """One residual layer `x + f(norm(x))` of a block."""

    kind: str  # a key of KINDS
    norm: str | None  # None: f has norms of its own
    units: range  # positions of its units among all units of the encoder

    def modules(self, block: torch.nn.Module) -> dict[str, torch.nn.Module]:
        """What belongs to the layer alone, by the name it has in its block."""
        names = list(KINDS[self.kind].modules)
        if self.norm is not None and block.normalize_before:
            names.append(self.norm)
        found = {name: getattr(block, name, None) for name in names}
        return {name: module for name, module in found.items() if module is not None}


class _Use(NamedTuple):
    """How a subnet uses a layer."""

    kept: tuple[int, ...]  # units that compute, counted within the layer
    probe: bool = False  # computed only for the gradient of its gate
    gated_by: Subnet | None = None  # scales the units inside the layer


class ResidualLayers:
    """Mixin for a block: runs its layers for whoever the switch names.

    A subclass has, for each kind of layer, a method `_<kind>(call, x, pos_emb, mask)`
    that returns what is added to x. It calls `call` in place of the module of that
    name.

    Attributes:
        norms: Kind of layer → name of its norm, in the order in which a block computes
            them; None where the layer's method norms.
        layers: The block's layers in the order in which they compute.
        switch: Names the subnets that compute.
        skip_empty: A block without any kept layer is skipped, final norm included.
    """

    norms: dict[str, str | None]
    normalize_before = True
    layers: list[Layer]
    switch: Switch
    skip_empty: bool

    @classmethod
    def take_over(
        cls,
        block: torch.nn.Module,
        first: int,
        switch: Switch,
        ffn_chunks: int | None = None,
        skip_empty: bool = False,
    ) -> "ResidualLayers":
        """Turn ESPnet's `block` into one of this class, with the same parameters.

        Args:
            block: A stock block of the class that this one extends.
            first: Index of the block's first unit among the encoder's units.
            switch: Names the active subnet.
            ffn_chunks: Units are attention heads, this many chunks of a feed-forward
                layer's hidden channels, and other modules; None: units are layers.
            skip_empty: A block without any kept layer is skipped, final norm included.

        Raises:
            ConfigError: the hidden channels cannot be cut into `ffn_chunks`.
        """
        block.__class__ = cls
        block.switch = switch
        block.skip_empty = skip_empty
        block.layers = []
        for kind in [k for k in cls.norms if has_layer(block, k)]:
            number = 1
            if ffn_chunks is not None:
                module = getattr(block, kind, None)
                number = components.count_units(kind, module, ffn_chunks)
            units = range(first, first + number)
            block.layers.append(Layer(kind, cls.norms[kind], units))
            first = units.stop
        return block

    @property
    def units(self) -> range:
        """All units of the block."""
        return range(self.layers[0].units.start, self.layers[-1].units.stop)

    def is_sized(self, layer: Layer) -> bool:
        """Whether something in the layer exists once per size."""
        found = list(layer.modules(self).values())
        if layer.norm is not None:
            found.append(getattr(self, layer.norm, None))
        return any(
            isinstance(part, SizedNorm)
            for module in found
            if module is not None
            for part in module.modules()
        )

    def keep(self, units: set[int]) -> None:
        """Delete the parameters of all other units; they can never compute again."""
        for layer in self.layers:
            kept = [i for i, unit in enumerate(layer.units) if unit in units]
            if not kept:
                for name in layer.modules(self):
                    setattr(self, name, None)
            elif len(kept) < len(layer.units):
                module = getattr(self, layer.kind)
                components.narrow(module, layer.kind, kept, len(layer.units))
        if self.skip_empty and not units & set(self.units):
            self.norm_final = None

    def forward(self, x_input, mask, cache=None):
        """Encode like the stock block.

        Args:
            x_input: [B, T, D], or a tuple of it and the positions [1, T', D].
            mask: [B, 1, T], True = valid frame.

        Raises:
            NotImplementedError: `cache` is given; encoders never use it.
        """
        if cache is not None:
            raise NotImplementedError("A supernet block has no incremental cache.")
        x, pos_emb = x_input if isinstance(x_input, tuple) else (x_input, None)
        x, mask = self._run_layers(x, pos_emb, mask)
        return (x if pos_emb is None else (x, pos_emb)), mask

    def _run_layers(self, x, pos_emb, mask) -> tuple:
        """All layers and the final norm; also returns the mask of the rows there are.

        Args:
            x: [B, T, D].
            pos_emb: [1, T', D], or None.
            mask: [B, 1, T], or None.
        """
        for layer in self.layers:
            x, mask = self._fork(layer.units.start, x, mask)
            if has_layer(self, layer.kind):
                x = self._add(layer, x, pos_emb, mask)
            if not self.normalize_before:
                x = self._norm(layer.norm, layer.units.start, x)
        return self._final_norm(x), mask

    def _fork(self, unit: int, x: torch.Tensor, mask: torch.Tensor | None):
        """Give the subnets that part from the first one here rows of their own."""
        others = (self.switch.parts or [])[1:]
        new = sum(part.fork == unit for part in others)
        if not new:
            return x, mask
        batch = len(x) // (1 + sum(part.fork < unit for part in others))
        x = torch.cat([x, *[x[:batch]] * new])
        if mask is not None:
            mask = torch.cat([mask, *[mask[:batch]] * new])
        return x, mask

    def _members(self, unit: int, batch: int) -> list[tuple[Subnet | None, int]]:
        """(subnet, sequences) of everything in the batch at `unit`, in order."""
        if self.switch.parts is None:
            return [(self.switch.subnet, batch)]
        first, *others = self.switch.parts
        others = [part for part in others if part.fork <= unit]
        others.sort(key=lambda part: part.fork)  # stable: the order of forking
        present = [first, *others]
        return [(part.subnet, batch // len(present)) for part in present]

    def _add(self, layer, x, pos_emb, mask) -> torch.Tensor:
        """Add the layer's output to the rows of all subnets that use it."""
        members = self._members(layer.units.start, x.size(0))
        sizes = [n for _, n in members]
        rows = [x] if len(members) == 1 else list(x.split(sizes))
        masks = [mask] if len(members) == 1 or mask is None else mask.split(sizes)
        for use, own in _group(layer, members).items():
            shares = [self._share(layer, members[i][0], rows[i]) for i in own]
            busy = [(i, s) for i, s in zip(own, shares) if use.kept and s.any]
            if not busy:
                continue
            outputs = self._outputs(
                layer,
                use,
                [(members[i][0], share.take(rows[i])) for i, share in busy],
                pos_emb,
                None if mask is None else _cat([s.take(masks[i]) for i, s in busy]),
            )
            for (i, share), output in zip(busy, outputs):
                gated = self._gate(layer, members[i][0], output)
                rows[i] = share.add(rows[i], gated)
        return _cat(rows)

    def _share(self, layer: Layer, subnet: Subnet | None, x: torch.Tensor):
        """The sequences of [B, T, D] that stochastic depth lets through the layer."""
        if subnet is None or subnet.drop is None or not self.training:
            return Share()
        return Share.draw(x, min(subnet.drop[unit] for unit in layer.units))

    def _outputs(self, layer, use: _Use, inputs, pos_emb, mask) -> list[torch.Tensor]:
        """The layer's outputs for subnets that use it alike, computed together."""
        members = [(subnet, len(x)) for subnet, x in inputs]
        # A closed gate passes no gradient into its layer. (Under autocast the weights'
        # casts are cached with their graph, as the full network has come first.)
        with (
            torch.set_grad_enabled(torch.is_grad_enabled() and not use.probe),
            self.switch.computes(members),
        ):
            y = self._compute(layer, use, _cat([x for _, x in inputs]), pos_emb, mask)
        return [y] if len(members) == 1 else list(y.split([n for _, n in members]))

    def _gate(self, layer: Layer, subnet: Subnet | None, y: torch.Tensor):
        if subnet is None or subnet.gates is None or len(layer.units) > 1:
            return y
        return y * subnet.gates[layer.units.start]

    def _compute(self, layer: Layer, use: _Use, x, pos_emb, mask):
        module, units = getattr(self, layer.kind, None), layer.units
        gates = None
        if use.gated_by is not None:
            gates = use.gated_by.gates[units.start : units.stop]
        call = module
        if len(units) > 1 and (gates is not None or len(use.kept) < len(units)):
            call = partial(
                components.call, module, layer.kind, use.kept, len(units), gates
            )
        if self.normalize_before and layer.norm is not None:
            x = getattr(self, layer.norm)(x)
        return getattr(self, f"_{layer.kind}")(call, x, pos_emb, mask)

    def _final_norm(self, x: torch.Tensor) -> torch.Tensor:
        if getattr(self, "norm_final", None) is None:
            return x
        if not self.skip_empty:
            return self._norm("norm_final", self.units[-1], x)
        members = self._members(self.units[-1], x.size(0))
        rows = x.split([n for _, n in members])
        normed = []
        for row, member in zip(rows, members):
            if not self._is_empty(member[0]):
                with self.switch.computes([member]):
                    row = self.norm_final(row)
            normed.append(row)
        return _cat(normed)

    def _norm(self, name: str, unit: int, x: torch.Tensor) -> torch.Tensor:
        with self.switch.computes(self._members(unit, x.size(0))):
            return getattr(self, name)(x)

    def _is_empty(self, subnet: Subnet | None) -> bool:
        return (
            subnet is not None
            and subnet.gates is None
            and not any(subnet.mask[unit] for unit in self.units)
        )


def _group(layer: Layer, members) -> dict[_Use, list[int]]:
    """Positions of the members by how they use the layer; probes come last."""
    groups: dict[_Use, list[int]] = {}
    for i, (subnet, _) in enumerate(members):
        groups.setdefault(_use(layer, subnet), []).append(i)
    return dict(sorted(groups.items(), key=lambda item: item[0].probe))


def _use(layer: Layer, subnet: Subnet | None) -> _Use:
    everything = tuple(range(len(layer.units)))
    if subnet is None:
        return _Use(everything)
    kept = subnet.kept(layer.units)
    if subnet.gates is None:
        return _Use(kept)
    if len(layer.units) == 1:
        return _Use(everything, probe=not kept)
    return _Use(everything, gated_by=subnet)


def _cat(rows) -> torch.Tensor:
    return rows[0] if len(rows) == 1 else torch.cat(rows)
