"""Sparse matrices whose groups of zeros are left out of a product."""

from typing import NamedTuple

import numpy as np
import torch

from espnet_dynsize.encoder.kernel import ROWS, kernel
from espnet_dynsize.encoder.sparse import is_matrix, over_rows
from espnet_dynsize.encoder.swap import swap_class

# Share of the groups from which on the dense product is as fast, and weights of a
# matrix below which it always is (benchmarks/sparse_kernel.py)
DENSE, SMALL = 0.5, 2**15


class Groups(NamedTuple):
    """What is left of a matrix, see `Kernel`.

    Args:
        made_of: Weight and bias, which are kept: no other tensor gets their place.
        versions: Of both, then.
        arrays: Values, the input of each, the first of each block, bias.
        addresses: Of these.
    """

    made_of: tuple[torch.Tensor | None, ...]
    versions: tuple
    arrays: tuple[np.ndarray, ...]
    addresses: list[int]


class Blocked:
    """Mixin for a sparse matrix: on a CPU, without gradients, zeros are left out.

    Everything else is the stock module's, and so are its parameters. What changes them
    behind PyTorch's back (`weight.data`, a numpy view) is not seen. An input that is
    not finite makes fewer outputs so, as zeros are not multiplied with it.

    Attributes:
        groups: None before the first product. Replaced at once, as other threads may
            be computing.
    """

    groups: Groups | None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Project as the stock module does."""
        if torch.jit.is_tracing() or not self._can(x):
            return super().forward(x)  # which refuses other numbers of inputs
        return over_rows(self._project, x, self.weight.shape)

    def _can(self, x: torch.Tensor) -> bool:
        """Whether the kernel is for this input."""
        if torch.is_autocast_enabled("cpu"):
            return False
        if torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad):
            return False
        plain = x.device.type == self.weight.device.type == "cpu"
        plain &= x.dtype == self.weight.dtype == torch.float32
        inputs = -1 if self.weight.dim() == 2 else 1
        return plain and x.size(inputs) == self.weight.size(1)

    def _project(self, x: torch.Tensor) -> torch.Tensor:
        compiled, groups = kernel(), self.groups
        if groups is None or not _is_of(groups, self):
            groups = self.groups = _groups(self)
        frames, outputs = x.shape[:-1].numel(), len(groups.arrays[-1])
        if frames == 0:
            return x.new_zeros(*x.shape[:-1], len(self.weight))
        x = x.contiguous()
        tiles = -(-frames // compiled.tile)
        y = x.new_empty(tiles * compiled.tile, outputs)
        packed = x.new_empty(x.size(-1) * compiled.tile)
        inputs = x.data_ptr(), packed.data_ptr()
        numbers = frames, x.size(-1), outputs // ROWS
        compiled.multiply(*inputs, *groups.addresses, y.data_ptr(), *numbers)
        return y[:frames, : len(self.weight)].reshape(*x.shape[:-1], -1)

    def __getstate__(self):
        # Addresses are this process's.
        return {**self.__dict__, "groups": None}


def _versions(tensors: tuple[torch.Tensor | None, ...]) -> tuple:
    """Change when the tensors do."""
    # Those that were made in inference mode cannot be changed outside of it.
    return tuple(t is None or t.is_inference() or t._version for t in tensors)


def _is_of(groups: Groups, module: torch.nn.Module) -> bool:
    now = module.weight, module.bias
    same = all(a is b for a, b in zip(groups.made_of, now))
    return same and groups.versions == _versions(now)


def _kept(module: torch.nn.Module) -> np.ndarray:
    """Weights [blocks, ROWS, I], with rows of zeros at the end where there are few."""
    weight = module.weight.detach().flatten(1).numpy()
    weight = np.pad(weight, ((0, -len(weight) % ROWS), (0, 0)))
    return weight.reshape(-1, ROWS, weight.shape[1])


def _groups(module: torch.nn.Module) -> Groups:
    made_of = module.weight, module.bias
    versions, weight = _versions(made_of), _kept(module)
    kept = weight.any(axis=1)  # [blocks, I]
    begin = np.concatenate([[0], kept.sum(axis=1).cumsum()]).astype(np.int32)
    values = np.ascontiguousarray(weight.transpose(0, 2, 1)[kept])
    bias = np.zeros(len(weight) * ROWS, np.float32)
    if module.bias is not None:
        bias[: len(module.weight)] = module.bias.detach().numpy()
    arrays = values, np.nonzero(kept)[1].astype(np.int32), begin, bias
    addresses = [array.ctypes.data for array in arrays]
    return Groups(made_of, versions, arrays, addresses)


def kernel_is_there() -> bool:
    """Whether llvmlite is installed."""
    return kernel() is not None


def leave_out_zeros(encoder: torch.nn.Module) -> int:
    """Let an encoder's sparse matrices compute without their zeros, where it pays.

    Args:
        encoder: As it has been loaded, on a CPU; for decoding.

    Returns:
        How many matrices; none where llvmlite is not installed.
    """
    if not kernel_is_there():
        return 0
    # Not of matrices that a supernet masks: what is zero there changes.
    plain = (torch.nn.Linear, torch.nn.Conv1d)
    matrices = [m for m in encoder.modules() if type(m) in plain and is_matrix(m)]
    large = [m for m in matrices if m.weight.numel() >= SMALL]
    sparse = [m for m in large if _kept(m).any(axis=1).mean() < DENSE]
    for module in sparse:
        swap_class(module, Blocked)
        module.groups = None
    return len(sparse)
