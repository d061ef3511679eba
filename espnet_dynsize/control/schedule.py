"""The schedule: which update it is, and the controllers that act on it."""

from numbers import Integral

import torch

from espnet_dynsize.control.controller import Controller, Counters
from espnet_dynsize.control.selection import Phase, Selection
from espnet_dynsize.control.sparsity.base import Sparsity
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.identity import difference, fingerprints, unknown
from espnet_dynsize.core.members import Member, members, percent
from espnet_dynsize.core.subnet import Subnet


class Schedule(Counters):
    """Counts updates and tells the controllers.

    Args:
        **controllers: The controllers by name, `selection` among them, in the order in
            which they are told.
    """

    selection: Selection
    sparsity: Sparsity | None

    def __init__(self, **controllers: Controller):
        super().__init__()
        self.register_buffer("update", torch.zeros(()))  # exact up to 2**24
        self.register_buffer("joint_epochs", torch.zeros(()))
        # Submodules by name, so that a checkpoint's keys say whose state they are.
        self._names = tuple(controllers)
        for name, controller in controllers.items():
            self.add_module(name, controller)
        if "sparsity" not in controllers:
            self.sparsity = None
        # Not a buffer: the seed is the config's, and comes anew with every update.
        self._seed = 0
        self._options: dict[str, object] = {}
        self.register_buffer("identity", unknown())

    def identify(self, **options: object) -> None:
        """Remember what model this is, in the checkpoint, too.

        Args:
            **options: Those of `identity.KEYS` that are known.
        """
        self._options |= options
        self.keep_identity()

    def keep_identity(self) -> None:
        """Undo what loading weights of another model has made of it."""
        self.identity.copy_(fingerprints(self._options))

    def misfit(self, name: str, value: torch.Tensor) -> str | None:
        """See `Counters.misfit`; another model's identity does not fit."""
        if name != "identity":
            return super().misfit(name, value)
        options = self._options
        # What is not imported is not asked whether it is the same.
        if getattr(self.selection.selector, "is_opaque", False):
            options = {k: v for k, v in options.items() if not k.startswith("selector")}
        return difference(options, value)

    @property
    def controllers(self) -> list[Controller]:
        return [getattr(self, name) for name in self._names]

    @property
    def started(self) -> bool:
        """Whether there has been an update."""
        return self.now > 0

    @property
    def now(self) -> int:
        """The number of the update, counted from 1; 0 before training."""
        return int(self.read("update"))

    @property
    def phase(self) -> Phase:
        """`JOINT` when every controller is final: all subnets are what they will be."""
        final = all(controller.final for controller in self.controllers)
        return Phase.JOINT if final else Phase.SEARCH

    @property
    def planned(self) -> bool:
        return all(controller.planned for controller in self.controllers)

    @property
    def last_decision(self) -> int:
        """The update after which the phase is `JOINT`; 0 before the plan."""
        return max(controller.last_decision for controller in self.controllers)

    def plan(self, total_updates: int | None) -> None:
        """Tell the controllers how long the run is; see `Controller.plan`."""
        for controller in self.controllers:
            controller.plan(total_updates)
        if self.sparsity is not None:
            self.sparsity.follow(self.selection.last_decision)

    # -- the family --

    def members(self) -> list[Member]:
        """All members of the family, smallest first."""
        levels = () if self.sparsity is None else self.sparsity.options.levels
        return members(self.selection.sizes, [percent(level) for level in levels])

    @property
    def only(self) -> Member | None:
        """The sparse member of a family of one; None where there are others."""
        first, *others = self.members()
        return None if others or not first.sparsity else first

    def member(self, chosen: object, key: str = "size") -> Member:
        """The member of a name, or of a size that is given as a number.

        Raises:
            ConfigError: there is no such member.
        """
        known = {member.name: member for member in self.members()}
        if isinstance(chosen, Member):
            chosen = chosen.name
        if isinstance(chosen, Integral) and not isinstance(chosen, bool):
            chosen = int(chosen)  # numpy's, too
        # True == 1: it would pass as size 1.
        good = type(chosen) in (int, str) and str(chosen) in known
        if not good:
            labels = [member.label for member in known.values()]
            raise ConfigError(f"{key}={chosen} must be one of {labels}.")
        return known[str(chosen)]

    def subnet(self, member: Member) -> Subnet:
        """The subnet of a member.

        Raises:
            ConfigError: it is not what it will be yet.
        """
        selection = self.selection
        size = selection.sizes[-1] if member.size is None else member.size
        subnet = selection.subnet(size)
        if not member.sparsity:
            return subnet
        options = self.sparsity.options
        if not self.sparsity.final:
            raise ConfigError(
                f"{member.name} is not final: the checkpoint is from before the part "
                f"{options.shares[-1]} of the run (sparsity: {options.last}), or an "
                "average with one that is."
            )
        return subnet.sparse(self.sparsity.of_level(self._level(member)))

    def _level(self, member: Member) -> float:
        levels = self.sparsity.options.levels
        return next(level for level in levels if percent(level) == member.sparsity)

    def watched(self) -> dict[str, Subnet]:
        """The members that are validated, as they are by now: name → subnet.

        Every size, and every sparsity of the full one; with more sizes, the sparsest of
        the smallest, too.
        """
        sizes = dict(zip(self.selection.sizes, self.selection.subnets()))
        names = self.members()
        full, ends = names[-1].size, (names[0].size, names[-1].sparsity)
        watched = {}
        for member in names:
            subnet = sizes.get(member.size, self.selection.family.full)
            if member.sparsity:
                on = self.sparsity.started(self.now)
                wanted = on and (member.size == full or tuple(member) == ends)
                if len(names) > 1 and not wanted:
                    continue
                # Of one member alone, the dense network is watched until then.
                share = self.sparsity.by_now(self._level(member), self.now)
                subnet = subnet.sparse(share)
            watched[member.name] = subnet
        return watched

    # -- training --

    def reset(self) -> None:
        """Forget everything: a training begins, whatever weights it starts from."""
        self.update.zero_()
        self.joint_epochs.zero_()
        for controller in self.controllers:
            controller.reset()

    def begin_update(self, seed: int) -> None:
        """Advance by one update; call it before the update's first batch.

        Args:
            seed: The run's seed.
        """
        self._seed = seed
        self.update += 1
        for controller in self.controllers:
            controller.begin_update(self.now, self.draws())

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Call it after the optimizer's step, which leaves the gradients there.

        A step that a gradient scaler has skipped is none: fused optimizers are called
        for it all the same.
        """
        skipped = getattr(optimizer, "found_inf", None)
        if skipped is not None and bool(skipped):
            return
        for controller in self.controllers:
            controller.after_step(self.now, optimizer, self.draws())

    def penalty(self) -> torch.Tensor:
        """What the controllers add to the loss."""
        total = self.update.new_zeros(())
        for controller in self.controllers:
            # Draws from their beginning for each: one more controller would not change
            # them, and the selection's are those that its gates get.
            total = total + controller.penalty(self.now, self.draws())
        return total

    def draws(self) -> torch.Generator:
        """Random numbers of this update: the same on every rank and when resumed."""
        # On the CPU: the generators of other devices give other numbers.
        generator = torch.Generator()
        # Own numbers for every update, whatever dropout has drawn elsewhere. The factor
        # keeps the updates of runs with neighbouring seeds apart.
        generator.manual_seed(1_000_003 * self._seed + self.now)
        return generator
