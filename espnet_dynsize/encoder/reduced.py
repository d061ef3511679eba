"""Matrices without the rows and columns that are zero, for decoding."""

import torch

from espnet_dynsize.encoder.sparse import is_matrix, over_rows
from espnet_dynsize.encoder.swap import swap_class

# Shares of zeros from which on it saves time on a CPU (benchmarks/zero_rows.py):
# outputs of rows that are left have to be put in their places.
ROWS, COLUMNS = 0.7, 0.5


class Reduced:
    """Mixin for a matrix that computes without some of its inputs or outputs.

    Its parameter `weight` is [outputs left, inputs left]. State dicts have the whole
    matrix, under the stock name.

    Attributes:
        rows: Which outputs are left; None for all of them. The others are their bias.
        columns: Which inputs; None for all.
        whole: Shape of the whole weight.
    """

    rows: torch.Tensor | None
    columns: torch.Tensor | None
    whole: torch.Size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Project as the stock module does."""
        return over_rows(self._project, x, self.whole)

    def _project(self, x: torch.Tensor) -> torch.Tensor:
        if self.columns is not None:
            x = x.index_select(-1, self.columns)
        if self.rows is None:
            return torch.nn.functional.linear(x, self.weight, self.bias)
        y = torch.nn.functional.linear(x, self.weight)
        out = y.new_zeros(*y.shape[:-1], self.whole[0])
        out = out.index_copy(-1, self.rows, y)
        return out if self.bias is None else out + self.bias.to(out)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        dense = self.weight.new_zeros(self.whole[:2])
        of_rows = dense if self.rows is None else dense[self.rows]
        columns = slice(None) if self.columns is None else self.columns
        of_rows[:, columns] = self.weight.detach()
        if self.rows is not None:
            dense[self.rows] = of_rows
        destination[f"{prefix}weight"] = dense.view(self.whole)


def remove_zeros(encoder: torch.nn.Module) -> None:
    """Take rows and columns of zeros out of an encoder's matrices, where it pays.

    Weights can no longer be loaded into it.

    Args:
        encoder: As it has been loaded.
    """
    for module in encoder.modules():
        # Not of matrices that a supernet masks: what is zero there changes.
        if is_matrix(module) and type(module) in (torch.nn.Linear, torch.nn.Conv1d):
            _reduce(module)


def _reduce(module: torch.nn.Module) -> None:
    weight = module.weight.detach().flatten(1)
    left = weight != 0
    rows = _left(left.any(dim=1), ROWS)
    columns = _left(left.any(dim=0), COLUMNS)
    if rows is None and columns is None:
        return
    if rows is not None:
        weight = weight[rows]
    if columns is not None:
        weight = weight[:, columns]
    whole = module.weight.shape
    swap_class(module, Reduced)
    module.whole = whole
    # Buffers, so that they move with the model; no state of it.
    module.register_buffer("rows", rows, persistent=False)
    module.register_buffer("columns", columns, persistent=False)
    module.weight = torch.nn.Parameter(weight.contiguous())


def _left(kept: torch.Tensor, share: float) -> torch.Tensor | None:
    """Positions that are left; None where too few are not, or none is."""
    zero = 1 - float(kept.float().mean())
    return kept.nonzero().flatten() if share <= zero < 1 else None
