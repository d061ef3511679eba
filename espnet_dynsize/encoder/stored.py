"""Matrices that store only the groups of weights that are not zero, while training."""

from collections.abc import Callable, Mapping

import torch

from espnet_dynsize.core.pattern import Pattern
from espnet_dynsize.encoder.sparse import over_rows
from espnet_dynsize.encoder.swap import swap_class


class Stored:
    """Mixin for a matrix whose parameter `weight` is [groups stored, weights of one].

    So are its gradient and what an optimizer keeps of it. The dense matrix is there for
    the moment of use only, in the forward pass and once more in the backward pass.
    State dicts have the dense weight, under the stock name.

    Attributes:
        pattern: Of the groups.
        dense_shape: Of the dense weight.
        places: Gives, for each group stored, its place in the matrix, counted row by
            row, as a float; NaN for one that is not used, whose weights are zero.
        seen: None, or [groups]: adds up the squares of the gradients of all groups, as
            backward passes go by.
    """

    weight: torch.nn.Parameter
    pattern: Pattern
    dense_shape: torch.Size
    places: Callable[[], torch.Tensor]
    seen: torch.Tensor | None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Project as the stock module does."""
        return over_rows(self._project, x, self.dense_shape)

    def _project(self, x: torch.Tensor) -> torch.Tensor:
        # Shaped outside: nobody may change a view in place that was made inside.
        rows = x.reshape(-1, x.size(-1))
        y = _Project.apply(rows, self.weight, self.bias, self)
        return y.view(*x.shape[:-1], -1)

    def dense(self, values: torch.Tensor) -> torch.Tensor:
        """The matrix [outputs, inputs, …] that has `values` at its groups."""
        number = self._number()
        # What is not used goes to one group too many: without a wait for the device.
        groups = values.new_zeros(number + 1, values.size(1))
        groups.index_copy_(0, self._index(number), values)
        return self.pattern.join(groups[:number], self.dense_shape)

    def gathered(self, dense: torch.Tensor) -> torch.Tensor:
        """Of a matrix [outputs, inputs, …], the groups that are stored."""
        number = self._number()
        index = self._index(number)
        used = (index < number).to(dense)[:, None]
        return self.pattern.split(dense)[index.clamp(max=number - 1)] * used

    def _number(self) -> int:
        rows, columns = self.pattern.grid(self.dense_shape)
        return rows * columns

    def _index(self, number: int) -> torch.Tensor:
        return self.places().nan_to_num(nan=number).long()

    def see(self, gradient: torch.Tensor) -> None:
        """Note the gradient of the dense weight [outputs, inputs], if it is wanted."""
        if self.seen is not None:
            squares = self.pattern.split(gradient.float().square()).sum(dim=1)
            self.seen = self.seen.to(squares) + squares

    def replace(self, kept: torch.Tensor, state: Mapping[str, object]) -> None:
        """Begin anew, at zero, where a group has been replaced.

        Args:
            kept: Bool [groups stored]; false where a group is a new one, or none.
            state: What an optimizer keeps of the weight: begins anew, too.
        """
        parts = [s for s in state.values() if isinstance(s, torch.Tensor)]
        for part in (self.weight.detach(), *parts):
            # A count of steps has no groups; factored statistics have.
            if part.dim() == 2 and len(part) == len(kept):
                part[~kept] = 0

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.dense(self.weight.detach())

    def _load_from_state_dict(self, state_dict, prefix, *args):
        key = f"{prefix}weight"
        dense, errors = state_dict.get(key), args[-1]
        if dense is not None and dense.shape == self.dense_shape:
            stored = self.gathered(dense.to(self.places().device))
            if stored.count_nonzero() != dense.count_nonzero():
                errors.append(f"{key} has weights in groups that are not stored.")
            state_dict = {**state_dict, key: stored}
        super()._load_from_state_dict(state_dict, prefix, *args)


class _Project(torch.autograd.Function):
    """`linear` of rows [N, inputs] with a weight that is made where it is used."""

    @staticmethod
    def forward(ctx, x, values, bias, stored: Stored):
        ctx.save_for_backward(x, values)
        ctx.stored = stored
        ctx.biased = bias is not None
        dense = stored.dense(values).flatten(1)
        return torch.nn.functional.linear(x, dense, bias)

    @staticmethod
    def backward(ctx, gradient):
        x, values = ctx.saved_tensors
        # Under autocast, `linear` has computed with halves of x and of the weight.
        of_x = of_values = of_bias = None
        if ctx.needs_input_grad[0]:
            dense = ctx.stored.dense(values.to(gradient)).flatten(1)
            of_x = (gradient @ dense).to(x)
        if ctx.needs_input_grad[1]:
            of_dense = gradient.t() @ x.to(gradient)
            ctx.stored.see(of_dense)
            of_values = ctx.stored.gathered(of_dense).to(values)
        if ctx.biased and ctx.needs_input_grad[2]:
            of_bias = gradient.sum(dim=0)
        return of_x, of_values, of_bias, None


def make_stored(
    module: torch.nn.Module,
    pattern: Pattern,
    places: Callable[[], torch.Tensor],
) -> None:
    """Let a matrix keep only its groups at `places`; the others' weights are lost.

    Args:
        module: Linear, or a pointwise convolution.
        pattern: Of the groups.
        places: See `Stored`.
    """
    weight = module.weight
    swap_class(module, Stored)
    module.pattern, module.dense_shape = pattern, weight.shape
    module.places, module.seen = places, None
    values = module.gathered(weight.detach())
    module.weight = torch.nn.Parameter(values, requires_grad=weight.requires_grad)
