"""The one place that says which subnet computes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from espnet_dynsize.core.subnet import Sampled, Subnet


class Switch:
    """Says which subnet computes; read by every layer, norm and matrix.

    Each thread and each coroutine has a switch of its own: what one of them activates
    does not change what another one computes.

    Attributes:
        default: What computes outside `activate`; None for the full network.
        lock: Held while a block computes, so that threads take turns.
    """

    def __init__(self, default: Sampled | None = None) -> None:
        self.default = default
        self.lock = threading.RLock()
        # A new thread begins with an empty context: with `default`, and no memory.
        self._active: ContextVar[Sampled | None] = ContextVar("active", default=None)
        self._memo: ContextVar[list | None] = ContextVar("memo", default=None)

    # Models are copied and sent to other processes; what computes here and now is not.
    # (Neither locks nor context variables could be.)
    def __getstate__(self) -> dict:
        return {"default": self.default}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["default"])

    @property
    def now(self) -> Sampled | None:
        """What computes now; None for the full network."""
        active = self._active.get()
        return self.default if active is None else active

    @contextmanager
    def activate(self, chosen: Subnet | Sampled) -> Iterator[None]:
        """Let `chosen` compute inside the `with` block."""
        if isinstance(chosen, Subnet):
            chosen = Sampled(chosen)
        # A token restores what was active before, also when blocks are nested.
        token = self._active.set(chosen)
        try:
            yield
        finally:
            self._active.reset(token)

    @property
    def memo(self) -> list | None:
        """Inside `remember`, what the front-end has returned."""
        return self._memo.get()

    @contextmanager
    def remember(self) -> Iterator[list[torch.Tensor | tuple]]:
        """Run the front-end once for all passes inside the `with` block.

        Yields:
            A list that holds what it has returned, after the first pass.
        """
        token = self._memo.set([])
        try:
            yield self._memo.get()
        finally:
            self._memo.reset(token)
