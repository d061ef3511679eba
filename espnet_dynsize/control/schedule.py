"""The schedule: which update it is, and the controllers that act on it."""

import hashlib
import json
import struct

import torch

from espnet_dynsize.control.controller import Controller, Counters
from espnet_dynsize.control.selection import Phase, Selection


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

    def identify(self, **options: object) -> None:
        """Remember which family this is, in the checkpoint, too.

        Args:
            **options: Key of `model_conf` → value, in an order that stays.
        """
        self._options = {key: value or None for key, value in options.items()}
        self.register_buffer("identity", torch.tensor(self._fingerprints()))

    def keep_identity(self) -> None:
        """Undo what loading weights of another family has made of it."""
        self.identity.copy_(torch.tensor(self._fingerprints()))

    def _fingerprints(self) -> list[list[float]]:
        options = self._options.values()
        texts = [json.dumps(o, sort_keys=True, default=str) for o in options]
        digests = [hashlib.sha256(text.encode()).digest()[:8] for text in texts]
        # Averages over up to 256 epochs are exact for integers below 2**16.
        return [[float(n) for n in struct.unpack(">4H", d)] for d in digests]

    def misfit(self, name: str, value: torch.Tensor) -> str | None:
        """See `Counters.misfit`; another family's identity does not fit."""
        if name != "identity":
            return super().misfit(name, value)
        if value.isnan().all():  # of version 0.1
            return None
        for (key, option), own, given in zip(
            self._options.items(), self._fingerprints(), value.tolist()
        ):
            # What is not imported is not asked whether it is the same.
            unknown = getattr(self.selection.selector, "is_opaque", False)
            if own != given and not (unknown and key.startswith("selector")):
                return f"is of a family with another model_conf: {key} than {option}"
        return None

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
