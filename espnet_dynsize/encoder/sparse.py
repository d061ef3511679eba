"""Weight matrices that compute under a mask."""

from collections.abc import Callable

import torch

from espnet_dynsize.encoder.swap import swap_class
from espnet_dynsize.encoder.switch import Switch


class Masked:
    """Mixin for a matrix whose weights the switch's subnet may mask.

    Parameters keep their names and stay dense: what a mask takes away gets no gradient
    from this subnet, and is there for others.

    Attributes:
        place: The matrix's name, of the encoder's in the encoder.
        switch: Names what computes, and with which masks.
    """

    place: str
    switch: Switch

    @staticmethod
    def attributes(stock: type) -> dict[str, Callable]:
        """The method that stands between the mixin's and the stock class's."""
        compute = _linear if issubclass(stock, torch.nn.Linear) else _convolution
        return {"compute": compute}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Project as the stock module does, with the weights that are left."""
        now = self.switch.now
        mask = (now.masks or {}).get(self.place) if now is not None else None
        if mask is None:
            return super().forward(x)
        return self.compute(x, self.masked(mask))

    def masked(self, mask: torch.Tensor) -> torch.Tensor:
        """The weight under a mask of its shape."""
        # The model may have been moved, or cast, since the mask was made.
        return self.weight * mask.to(self.weight)


def _linear(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.linear(x, weight, self.bias)


def _convolution(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return self._conv_forward(x, weight, self.bias)


def is_matrix(module: torch.nn.Module) -> bool:
    """Whether a module is a matrix: linear, or a pointwise convolution."""
    if isinstance(module, torch.nn.Conv1d):
        plain = module.stride == (1,) and module.padding in ((0,), "valid", "same")
        return module.kernel_size == (1,) and module.groups == 1 and plain
    return isinstance(module, torch.nn.Linear)


def over_rows(
    project: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, shape: torch.Size
) -> torch.Tensor:
    """What a matrix makes of its input, by a function of rows [..., inputs].

    Args:
        project: The function.
        x: [..., inputs]; of a pointwise convolution [B, inputs, T].
        shape: Of the matrix's weight.
    """
    if len(shape) == 2:
        return project(x)
    return project(x.transpose(1, 2)).transpose(1, 2)


def make_masked(module: torch.nn.Module, place: str, switch: Switch) -> None:
    """Let a matrix compute under masks; its parameters stay where they are.

    Args:
        module: See `is_matrix`.
        place: Its name.
        switch: Names what computes.
    """
    swap_class(module, Masked)
    module.place = place
    module.switch = switch
