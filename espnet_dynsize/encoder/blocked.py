"""Sparse matrices whose groups of zeros are left out of a product."""

import numpy as np
import torch

from espnet_dynsize.encoder.kernel import ROWS, kernel
from espnet_dynsize.encoder.sparse import is_matrix, over_rows
from espnet_dynsize.encoder.swap import swap_class

# Share of the groups from which on the dense product is as fast, and weights of a
# matrix below which it always is (benchmarks/sparse_kernel.py)
DENSE, SMALL = 0.5, 2**15


class Blocked:
    """Mixin for a sparse matrix: on a CPU, without gradients, zeros cost nothing.

    Everything else is the stock module's, and so are its parameters.

    Attributes:
        groups: Values, inputs, beginnings, bias, see `Kernel`; None before the first
            product.
        addresses: Of these arrays.
        version: Of the weights that they were made of.
    """

    groups: tuple[np.ndarray, ...] | None
    addresses: list[int] | None
    version: tuple

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Project as the stock module does."""
        gradient = torch.is_grad_enabled() and (
            x.requires_grad or self.weight.requires_grad
        )
        plain = x.device.type == self.weight.device.type == "cpu"
        plain &= x.dtype == self.weight.dtype == torch.float32
        if gradient or not plain or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        return over_rows(self._project, x, self.weight.shape)

    def _project(self, x: torch.Tensor) -> torch.Tensor:
        compiled = kernel()
        if self.version != _version(self):
            self._group()
        frames, outputs = x.shape[:-1].numel(), len(self.groups[-1])
        if frames == 0:
            return x.new_zeros(*x.shape[:-1], len(self.weight))
        x = x.contiguous()
        tiles = -(-frames // compiled.tile)
        y = x.new_empty(tiles * compiled.tile, outputs)
        packed = x.new_empty(x.size(-1) * compiled.tile)
        numbers = frames, x.size(-1), outputs // ROWS
        scratch = packed.data_ptr()
        compiled.multiply(
            x.data_ptr(), scratch, *self.addresses, y.data_ptr(), *numbers
        )
        return y[:frames, : len(self.weight)].reshape(*x.shape[:-1], -1)

    def _group(self) -> None:
        self.groups, self.version = _groups(self), _version(self)
        self.addresses = [array.ctypes.data for array in self.groups]

    def __getstate__(self):
        # Rebuilt from the weights
        return {**self.__dict__, "groups": None, "addresses": None, "version": ()}


def _version(module: torch.nn.Module) -> tuple:
    """Changes when the weights do."""
    tensors = [t for t in (module.weight, module.bias) if t is not None]
    return tuple((t.data_ptr(), t._version) for t in tensors)


def _kept(module: torch.nn.Module) -> np.ndarray:
    """Weights [blocks, ROWS, I], with rows of zeros at the end where there are few."""
    weight = module.weight.detach().flatten(1).numpy()
    weight = np.pad(weight, ((0, -len(weight) % ROWS), (0, 0)))
    return weight.reshape(-1, ROWS, weight.shape[1])


def _groups(module: torch.nn.Module) -> tuple[np.ndarray, ...]:
    weight = _kept(module)
    kept = weight.any(axis=1)  # [blocks, I]
    begin = np.concatenate([[0], kept.sum(axis=1).cumsum()]).astype(np.int32)
    values = np.ascontiguousarray(weight.transpose(0, 2, 1)[kept])
    bias = np.zeros(len(weight) * ROWS, np.float32)
    if module.bias is not None:
        bias[: len(module.weight)] = module.bias.detach().numpy()
    return values, np.nonzero(kept)[1].astype(np.int32), begin, bias


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
        module.groups = module.addresses = None
        module.version = ()
    return len(sparse)
