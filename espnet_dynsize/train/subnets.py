"""A model's subnets: any of them can be asked for, if it computes as it has trained."""

from contextlib import AbstractContextManager

import torch

from espnet_dynsize.control.schedule import Schedule
from espnet_dynsize.control.selection import Phase
from espnet_dynsize.core.context import Context
from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.core.members import Member
from espnet_dynsize.core.subnet import FULL, Sampled, Subnet
from espnet_dynsize.encoder.supernet import Supernet


class SubnetHolder:
    """Mixin for a model that has a schedule.

    Attributes:
        encoder: Computes the subnets.
        schedule: Says what they are by now.
        contexts: See `JointLoss`; empty if there is one.
    """

    encoder: Supernet
    schedule: Schedule
    contexts: list[Context]

    def subnet(self, chosen: int | str | Member) -> Subnet:
        """The subnet of a member of the family: a size, or a name such as `sparsity70`.

        Raises:
            ConfigError: it is not in the family, or is not what it will be yet.
        """
        return self.schedule.subnet(self.schedule.member(chosen))

    def activate(self, chosen: int | str | Subnet) -> AbstractContextManager[None]:
        """Let a member, or any subnet, compute inside the `with` block, in this thread.

        Raises:
            ConfigError: see `subnet` and `check_subnet`.
        """
        if not isinstance(chosen, Subnet):
            chosen = self.subnet(chosen)
        self.check_subnet(chosen)
        return self.encoder.activate(self.sampled(chosen))

    def sampled(self, subnet: Subnet) -> Sampled:
        """A subnet with the masks that its sparsity means.

        Raises:
            ConfigError: a matrix of it has no pattern.
        """
        return Sampled(subnet, masks=self.masks(subnet))

    def masks(self, subnet: Subnet) -> dict[str, torch.Tensor] | None:
        """Name of a matrix in the encoder → its mask; None for a dense subnet.

        Raises:
            ConfigError: a matrix of it has no pattern.
        """
        if not subnet.sparsity:
            return None
        self._check_sparsity(subnet)
        return self.schedule.sparsity.masks(dict(subnet.sparsity))

    def _check_sparsity(self, subnet: Subnet) -> None:
        sparsity = self.schedule.sparsity
        allowed = "left out: the model was trained without sparsity"
        check(sparsity is not None, "subnet: sparsity", subnet.sparsity[:1], allowed)
        sparsity.check_names(dict(subnet.sparsity))

    def context(self, name: str, subnet: Subnet) -> Context:
        """The context of a name, in which `subnet` has trained.

        Raises:
            ConfigError: it has not.
        """
        known = {context.name: context for context in self.contexts}
        allowed = f"one of {list(known)}" if known else "left out: there is one"
        check(name in known, "context", name, allowed)
        dense = not subnet.sparsity or self.schedule.only is not None
        leads = dense and all(subnet.units)
        allowed = "that of the full network alone, which has trained with it"
        check(leads or not known[name].whole, "context", name, allowed)
        return known[name]

    def check_subnet(
        self, subnet: Subnet, calibrated: bool = False, context: str | None = None
    ) -> None:
        """Refuse a subnet that would compute as it has not trained.

        Args:
            subnet: Any subnet.
            calibrated: Its norm statistics will be measured anew.
            context: In which it will compute; None: the encoder's own.

        Raises:
            ConfigError: it is of another encoder, has no such head, is asked for while
                searching, is not of the family and needs norm statistics, or has not
                trained in the context.
        """
        if self.contexts or context is not None:
            self.context(context or self.encoder.context.name, subnet)
        family = self.schedule.selection.family
        self.encoder.check_units(subnet)
        heads = [FULL, *map(str, family.sizes[:-1])]
        if subnet.head not in heads:
            raise ConfigError(f"subnet: head={subnet.head} must be one of {heads}.")
        if self.schedule.phase is Phase.SEARCH and subnet != family.full:
            raise ConfigError(
                f"subnet: kept={list(subnet.kept)} has not trained yet: the checkpoint "
                "is from the search phase, or an average with one; use a joint-phase "
                "checkpoint."
            )
        if subnet.sparsity:
            self._check_sparsity(subnet)
        # With its head: the same layers under another head have other statistics.
        dense = subnet.sparse({})
        listed = dense in self.schedule.selection.subnets()
        if not listed and not calibrated and self._keeps_statistics(subnet):
            raise ConfigError(
                f"subnet: kept={list(subnet.kept)} is not one of the family's sizes, "
                "and conv_norm: batch_norm has no statistics for it: `espnet-dynsize "
                "extract --calibrate` measures them; or train with layer_norm."
            )

    def _keeps_statistics(self, subnet: Subnet) -> bool:
        return any(
            isinstance(part, torch.nn.BatchNorm1d)
            for block in self.encoder.blocks
            for layer in block.layers
            if subnet.within(layer.units)
            for module in layer.modules(block).values()
            for part in module.modules()
        )
