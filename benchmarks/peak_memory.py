"""Peak memory of tensors, on a CPU."""

import weakref
from collections.abc import Iterable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of all tensors that live inside the `with` block.

    Args:
        tensors: Those that live already.

    Attributes:
        peak: The most bytes at any moment.
    """

    def __init__(self, tensors: Iterable[torch.Tensor]):
        super().__init__()
        self.peak = self._bytes = 0
        self._living: dict[int, weakref.ref] = {}
        for tensor in tensors:
            self._add(tensor)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            if isinstance(result, torch.Tensor):
                self._add(result)
        return results

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._living:
            return
        size = storage.nbytes()

        def free(_):
            del self._living[key]
            self._bytes -= size

        self._living[key] = weakref.ref(storage, free)
        self._bytes += size
        self.peak = max(self.peak, self._bytes)
