"""Samplers: which subnets train in an update, and with which weight."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Literal

import torch

from espnet_dynsize.control.selection import Phase, Selection
from espnet_dynsize.control.sparsity.omni import OmniSparsity
from espnet_dynsize.core.context import Context
from espnet_dynsize.core.subnet import Sampled, Subnet

SandwichRule = Literal["whole", "alternate", "pairs"]
# While searching, the gated subnet trains in every n-th update
GATE_EVERY: dict[SandwichRule, int] = {"whole": 1, "alternate": 2, "pairs": 3}


class Sandwich:
    """The full network and smaller subnets (arXiv 2407.18930, section 3.3).

    Args:
        selection: Knows the sizes' subnets and the gates.
        rule: Joint phase: `whole`: the full network, one size drawn between, and the
            smallest, in every update. `alternate`: the full one and, in turn, one of
            the others. `pairs`: two of the three, each in turn left out; with two
            sizes, as `alternate`. While searching, the full network trains in every
            update; the gated subnet with `whole` in every one, with `alternate` in
            every second, with `pairs` in every third.
        subnet_weight: Loss weight of all but the first of them, whose weight is 1.
        layer_drop_joint: Stochastic depth of the full network's units that the smallest
            size lacks, in the joint phase.
        sparsity: Of matrices. From its start on, every second turn of the smaller
            subnets is one of a sparse subnet instead, of a size drawn from all; in a
            family of one size there is nobody else, and with `whole` a sparse subnet
            trains in every update.
        contexts: Of a streaming encoder. The full network has the first of them, and
            leads; the others have one drawn from all that are not whole utterances.
            In the updates that have no others, and in every third one of a family of
            three and more sizes, that is the full network once more; with `whole`, in
            every update.
    """

    def __init__(
        self,
        selection: Selection,
        rule: SandwichRule = "alternate",
        subnet_weight: float = 0.3,
        layer_drop_joint: float = 0.0,
        sparsity: OmniSparsity | None = None,
        contexts: Sequence[Context] = (),
    ):
        self.selection = selection
        self.sparsity = sparsity
        self.contexts = contexts
        self.rule = rule
        self.subnet_weight = subnet_weight
        self.layer_drop_joint = layer_drop_joint

    def draw(self, update: int, generator: torch.Generator) -> list[Sampled]:
        """What trains in `update`, largest first.

        Args:
            update: Counted from 1.
            generator: The same on every rank and in a resumed run.
        """
        searching = self.selection.phase is Phase.SEARCH
        draw = self._search if searching else self._joint
        samples = draw(update, generator)
        if self.contexts:
            samples = self._in_contexts(samples, update, generator)
        return samples

    @property
    def _has_middle(self) -> bool:
        """Whether every update has two networks to train without them."""
        joint = self.selection.phase is Phase.JOINT
        return joint and len(self.selection.sizes) > 2

    def _in_contexts(
        self, samples: list[Sampled], update: int, generator: torch.Generator
    ) -> list[Sampled]:
        streaming = [context for context in self.contexts if not context.whole]
        drawn = int(torch.randint(len(streaming), (), generator=generator))
        leader, *others = samples
        again = dataclasses.replace(
            leader, weight=self.subnet_weight, name=f"{leader.name}_again", drop=None
        )
        if self.rule == "whole":
            others = [again, *others]
        elif not others or (self._has_middle and update % 3 == 0):
            others = [again]
        return [
            dataclasses.replace(leader, context=self.contexts[0]),
            *(dataclasses.replace(s, context=streaming[drawn]) for s in others),
        ]

    def _search(self, update: int, generator: torch.Generator) -> list[Sampled]:
        family = self.selection.family
        if not self.selection.gates_train(update):
            return [self._full()]  # needs no gates
        gates = self.selection.gates(update, generator)
        # With soft gates, every unit takes part.
        units = (gates.values > 0.5).tolist() if gates.hard else family.full.units
        # The norm statistics of the smallest size, which k falls to.
        subnet = Subnet(tuple(units), family.head(0))
        # Gates of 0 and 1 that learn nothing: what is dropped need not be computed.
        plain = gates.hard and not gates.values.requires_grad
        values = None if plain else gates.values
        return [self._full(), Sampled(subnet, self.subnet_weight, "gated", values)]

    def _joint(self, update: int, generator: torch.Generator) -> list[Sampled]:
        sizes, subnets = self.selection.sizes, self.selection.subnets()
        last = len(sizes) - 1
        lacking = [i for i, kept in enumerate(subnets[0].units) if not kept]
        samples = [self._full(lacking, self.layer_drop_joint)]
        if last > 1:
            # Drawn in every update, so that what is drawn does not depend on the turns.
            between = int(torch.randint(1, last, (1,), generator=generator))
            samples.append(self._smaller(sizes[between], subnets[between]))
        if last > 0:
            samples.append(self._smaller(sizes[0], subnets[0]))
        if self.rule == "pairs" and len(samples) == 3:
            del samples[update % 3]
        elif self.rule != "whole":
            # A slice, as a smaller family has nobody there in every second update.
            left_out = 2 - update % 2
            del samples[left_out : left_out + 1]
        if self.sparsity is not None and self.sparsity.started(update):
            if len(self.sparsity.options.levels) == 1:
                return [self._pruned(update)]
            sparse = self._sparse(update, generator)
            if sparse is not None:
                # With the full network, also in `pairs`: no other is as large.
                samples = [self._full(lacking, self.layer_drop_joint), sparse]
        # Where the full network sits out, the largest of the others leads the step.
        samples[0] = dataclasses.replace(samples[0], weight=1.0)
        return samples

    def _pruned(self, update: int) -> Sampled:
        """The network that is pruned to one sparsity, as it is by now."""
        (level,) = self.sparsity.options.levels
        return self._masked(self._full(), self.sparsity.by_now(level, update))

    def _sparse(self, update: int, generator: torch.Generator) -> Sampled | None:
        """The sparse subnet that trains in an update; None: a dense one does."""
        subnets = self.selection.subnets()
        # Drawn in every update, as above.
        size = int(torch.randint(len(subnets), (), generator=generator))
        alone = len(subnets) == 1
        # Two turns of dense ones, in which both of a sandwich's rules come round.
        every, first = (2, 1) if alone else (4, 2)
        if self.rule == "whole" and alone:
            every, first = 1, 0
        if update % every < first:
            return None
        turn = update // every
        drawn = self.sparsity.drawn(update, turn, generator)
        dense = Sampled(subnets[size], self.subnet_weight, "sparse")
        return self._masked(dense, drawn)

    def _masked(self, dense: Sampled, sparsity: dict[str, float]) -> Sampled:
        subnet = dense.subnet.sparse(sparsity)
        masks = self.sparsity.masks(dict(subnet.sparsity))
        return dataclasses.replace(dense, subnet=subnet, masks=masks)

    def _smaller(self, size: int, subnet: Subnet) -> Sampled:
        return Sampled(subnet, self.subnet_weight, str(size))

    def _full(self, lacking: Collection[int] = (), drop: float = 0.0) -> Sampled:
        """The full network; `drop` is the stochastic depth of the units `lacking`."""
        family = self.selection.family
        rates = None
        if drop:
            rates = tuple(
                drop if i in lacking else 0.0 for i in range(family.num_units)
            )
        return Sampled(family.full, 1.0, str(family.sizes[-1]), drop=rates)
