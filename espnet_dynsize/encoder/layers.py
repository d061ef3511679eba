"""A block of residual layers that computes the layers of one subnet."""

import torch

from espnet_dynsize.core.subnet import Sampled, Subnet
from espnet_dynsize.encoder import weights
from espnet_dynsize.encoder.kinds import Layer, has_layer
from espnet_dynsize.encoder.stochastic_depth import Rows
from espnet_dynsize.encoder.switch import Switch


class Block:
    """Mixin for ESPnet's block: runs the layers of the subnet that the switch names.

    A subclass has, for each kind of layer, a method `_<kind>(call, x, pos_emb, mask)`
    that returns what is added to x. It calls `call` in place of the module of that
    name.

    Attributes:
        norms: Kind of layer → name of its norm, in the order in which a block computes
            them; None where the layer's method norms.
        layers: The block's layers in the order in which they compute.
        switch: Names the subnet that computes.
        skip_empty: A block without any kept layer is skipped, final norm included.
        counts: Where a batch has several rows for an utterance, how many for each.
    """

    norms: dict[str, str | None]
    # Where ESPnet's block has no such option (E-Branchformer), its norms come before.
    normalize_before = True
    layers: list[Layer]
    switch: Switch
    skip_empty: bool
    counts: list[int] | None = None

    @classmethod
    def take_over(
        cls,
        block: torch.nn.Module,
        first: int,
        switch: Switch,
        ffn_chunks: int | None = None,
        skip_empty: bool = False,
    ) -> "Block":
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
        # Swapping the class keeps every parameter under its stock name.
        block.__class__ = cls
        block.switch = switch
        block.skip_empty = skip_empty
        block.layers = []
        for kind in [k for k in cls.norms if has_layer(block, k)]:
            number = 1
            if ffn_chunks is not None:
                module = getattr(block, kind, None)
                # No module of that name, as for a merged branch: the layer is one unit.
                number = weights.count_units(kind, module, ffn_chunks)
            units = range(first, first + number)
            block.layers.append(Layer(kind, cls.norms[kind], units))
            first = units.stop
        return block

    @property
    def units(self) -> range:
        """All units of the block."""
        return range(self.layers[0].units.start, self.layers[-1].units.stop)

    def keep(self, subnet: Subnet) -> None:
        """Delete the parameters of all other units; they can never compute again."""
        for layer in self.layers:
            kept = subnet.within(layer.units)
            if not kept:
                for name in layer.modules(self):
                    # None is what ESPnet has for a module that is not built.
                    setattr(self, name, None)
            elif len(kept) < len(layer.units):
                weights.delete_units(getattr(self, layer.kind), layer, Sampled(subnet))
        if self.skip_empty and not subnet.within(self.units):
            self.norm_final = None

    def forward(
        self,
        x_input: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor | None,
        cache: torch.Tensor | None = None,
    ):
        """Encode like the stock block.

        Args:
            x_input: [B, T, D], or a tuple of it and the positions [1, T', D].
            mask: [B, 1, T], True = valid frame.
            cache: Only None: encoders never use it.

        Raises:
            NotImplementedError: `cache` is given.
        """
        if cache is not None:
            raise NotImplementedError("A supernet block has no incremental cache.")
        x, pos_emb = x_input if isinstance(x_input, tuple) else (x_input, None)
        x = self.add_layers(x, pos_emb, mask)
        return (x if pos_emb is None else (x, pos_emb)), mask

    def add_layers(
        self, x: torch.Tensor, pos_emb: torch.Tensor | None, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """x [B, T, D] after the layers of the subnet that computes now."""
        now = self.switch.now
        # One thread at a time: ESPnet's attention leaves its weights in an attribute
        # and reads them again, and views put other parameters into modules.
        with self.switch.lock:
            for layer in self.layers:
                if has_layer(self, layer.kind):
                    x = self._add(layer, now, x, pos_emb, mask)
                if not self.normalize_before:
                    # Norms after the layer belong to the block: they always compute.
                    x = getattr(self, layer.norm)(x)
            if self._has_final_norm(now):
                x = self.norm_final(x)
        return x

    def _add(
        self,
        layer: Layer,
        now: Sampled | None,
        x: torch.Tensor,
        pos_emb: torch.Tensor | None,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """x [B, T, D] plus the layer's output; x alone where the subnet lacks it."""
        gates, kept = None if now is None else now.gates, layer.kept(now)
        if gates is None and not kept:
            return x
        # Stochastic depth picks sequences before anything is computed for them.
        rows = self._rows(layer, now, x)
        if not rows.any:
            return x
        y = rows.take(x)  # [n, T, D]
        call = weights.call(getattr(self, layer.kind, None), layer, now)
        # A closed gate passes no gradient into its layer, but its score needs y. (Under
        # autocast the weights' casts are cached with their graph all the same, as the
        # full network has come first.)
        with torch.set_grad_enabled(torch.is_grad_enabled() and bool(kept)):
            if self.normalize_before and layer.norm is not None:
                y = getattr(self, layer.norm)(y)
            # Positions have no batch: they are the same for every sequence.
            y = getattr(self, f"_{layer.kind}")(
                call, y, pos_emb, rows.take(mask)
            )  # [n, T, D]
        if gates is not None and len(layer.units) == 1:
            y = y * gates[layer.units.start]
        return rows.add(x, y)

    def _rows(self, layer: Layer, now: Sampled | None, x: torch.Tensor) -> Rows:
        """The sequences that stochastic depth lets through the layer."""
        if now is None or now.drop is None or not self.training:
            return Rows()
        # A layer is dropped whole: not if the smaller subnet needs one of its units.
        p = min(now.drop[unit] for unit in layer.units)
        return Rows.draw(x, p, self.counts)

    def _has_final_norm(self, now: Sampled | None) -> bool:
        if getattr(self, "norm_final", None) is None:
            return False
        # While searching, gates are not yet decisions: no block counts as empty.
        decided = self.skip_empty and now is not None and now.gates is None
        return not decided or bool(now.subnet.within(self.units))
