"""The schedule: which update it is, and the controllers that act on it."""

import torch

from espnet_dynsize.control.controller import Controller, Counters
from espnet_dynsize.control.selection import Phase, Selection
from espnet_dynsize.core.identity import difference, fingerprints, unknown


class Schedule(Counters):
    """Counts updates and tells the controllers.

    Args:
        **controllers: The controllers by name, `selection` among them, in the order in
            which they are told.
    """

    selection: Selection

    def __init__(self, **controllers: Controller):
        super().__init__()
        self.register_buffer("update", torch.zeros(()))  # exact up to 2**24
        self.register_buffer("joint_epochs", torch.zeros(()))
        # Submodules by name, so that a checkpoint's keys say whose state they are.
        self._names = tuple(controllers)
        for name, controller in controllers.items():
            self.add_module(name, controller)
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
        return self.selection.phase

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
            controller.begin_update(self.now)

    def after_step(self) -> None:
        """Call it after the optimizer's step."""
        for controller in self.controllers:
            controller.after_step(self.now)

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
