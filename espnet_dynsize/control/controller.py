"""What changes with the update, and how its state survives averaging and casts."""

from collections.abc import Callable

import torch


class Counters(torch.nn.Module):
    """Mixin for modules whose buffers are state of the schedule.

    ESPnet's averaging sums integers and averages floats; so this state is in floats,
    which are equal in all epochs that are averaged, and NaN while not final.
    """

    def __init__(self) -> None:
        super().__init__()
        # Name of a buffer → its version and what `tolist` has given for it.
        self._on_host: dict[str, tuple] = {}

    def _apply(self, fn: Callable, recurse: bool = True):
        """Follow the model to its device, but count in float32 at any precision."""
        exact = dict(self._buffers)  # bfloat16 counts up to 256 only
        super()._apply(fn, recurse)
        # Only the device is taken from what torch has made of them.
        for name, moved in self._buffers.items():
            self._buffers[name] = exact[name].to(moved.device)
        return self

    def read(self, name: str):
        """A buffer as numbers; the device is waited for only after a change."""
        buffer = getattr(self, name)
        # In-place changes count a tensor's version up; tensors that were made under
        # inference_mode have none, and are read anew.
        version = None if buffer.is_inference() else (id(buffer), buffer._version)
        if version is None or self._on_host.get(name, (None,))[0] != version:
            self._on_host[name] = (version, buffer.tolist())
        return self._on_host[name][1]

    def misfit(self, name: str, value: torch.Tensor) -> str | None:
        """What is wrong with a checkpoint's value of a buffer, None where it fits.

        Args:
            name: Of the buffer.
            value: Of the buffer's shape.
        """
        finite = bool(value.isfinite().all())
        return None if finite else "holds numbers that are not finite"


class Controller(Counters):
    """Something that acts on the model as updates go by.

    ESPnet2's trainer and the Lightning callback call the same three methods, through
    `Schedule`. All state is in buffers of the checkpoint; random draws come from the
    generator, which is the same on every rank and in a resumed run.
    """

    def plan(self, total_updates: int | None) -> None:
        """Fix when something happens in a run of `total_updates` (None: unknown).

        Raises:
            ConfigError: it does not fit into the run.
        """

    @property
    def planned(self) -> bool:
        """Whether there is nothing to fix, or it has been done."""
        return True

    @property
    def final(self) -> bool:
        """Whether it has decided what subnets are: nothing will change any more."""
        return True

    @property
    def last_decision(self) -> int:
        """The update after which it is final; 0 before the plan."""
        return 0

    def begin_update(self, update: int, generator: torch.Generator) -> None:
        """Called once before the first batch of an update, counted from 1.

        Args:
            update: Its number.
            generator: The same on every rank and in a resumed run.
        """

    def after_step(
        self, update: int, optimizer: torch.optim.Optimizer, generator: torch.Generator
    ) -> None:
        """Called after the optimizer's step of an update, which has gradients yet.

        Args:
            update: Its number.
            optimizer: That has stepped.
            generator: See `begin_update`.
        """

    def penalty(self, update: int, generator: torch.Generator) -> torch.Tensor | float:
        """What is added to the loss of every batch of the update."""
        return 0.0

    def reset(self) -> None:
        """Forget everything, as before the first update."""
