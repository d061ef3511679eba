"""Patterns: which weights of a matrix live or die together, and in which order.

A matrix is [outputs, inputs]; of a pointwise convolution [outputs, inputs, 1] the last
dimension is ignored. Everything here is a pure function of tensors.
"""

import math
import re
from dataclasses import dataclass

import torch

from espnet_dynsize.core.errors import ConfigError

ALLOWED = (
    "unstructured, rows, columns, two numbers as in 8x1 (outputs x inputs), or two as "
    "in 2:4 (of 4 inputs, 2 are kept)"
)
_BLOCK = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
_N_OF_M = re.compile(r"([1-9][0-9]{0,4}):([1-9][0-9]{0,4})")


@dataclass(frozen=True)
class Pattern:
    """The shape of a matrix's groups.

    Args:
        outputs: Of a group; None: all of the matrix.
        inputs: The same.
        kept_of: For `N:M`, that N of each M inputs of an output are kept; groups are
            single weights. None: any groups may be kept.
    """

    outputs: int | None = 1
    inputs: int | None = 1
    kept_of: tuple[int, int] | None = None

    @classmethod
    def named(cls, name: object, key: str = "pattern") -> "Pattern":
        """The pattern of a name, such as `8x1`, `2:4` or `rows`.

        Args:
            name: Of the pattern. A number, too: yaml 1.1 reads an unquoted 2:4 as one
                of base 60.
            key: That names it, for messages.

        Raises:
            ConfigError: there is no such pattern.
        """
        if type(name) is int:
            name = f"{name // 60}:{name % 60}"
        text = name if isinstance(name, str) else ""
        if text in _NAMED:
            return _NAMED[text]
        if block := _BLOCK.fullmatch(text):
            return cls(int(block[1]), int(block[2]))
        match = _N_OF_M.fullmatch(text)
        if match and int(match[1]) < int(match[2]):
            return cls(kept_of=(int(match[1]), int(match[2])))
        raise ConfigError(f"{key}={name} must be {ALLOWED}.")

    @property
    def sparsity(self) -> float | None:
        """The only sparsity there is, of `N:M`; None: any."""
        return None if self.kept_of is None else 1 - self.kept_of[0] / self.kept_of[1]

    def grid(self, shape: torch.Size) -> tuple[int, int]:
        """How many groups a matrix of this shape has along outputs, and along inputs.

        What does not fill a group at the end is a smaller one.
        """
        high, wide = self.group(shape)
        return math.ceil(shape[0] / high), math.ceil(shape[1] / wide)

    def group(self, shape: torch.Size) -> tuple[int, int]:
        """Outputs and inputs of a group of a matrix of this shape."""
        high, wide = self.outputs or shape[0], self.inputs or shape[1]
        return min(high, shape[0]), min(wide, shape[1])

    def magnitudes(self, weight: torch.Tensor) -> torch.Tensor:
        """Root mean square of the weights of each group, shape `grid`.

        In the order of groups of one shape it is their L2 norm; smaller groups at the
        end are not at a disadvantage.

        Args:
            weight: [outputs, inputs], or [outputs, inputs, 1].
        """
        squares = weight.detach().flatten(1).float().square()
        sums = self._summed(squares)
        return (sums / self._summed(torch.ones_like(squares))).sqrt()

    def _summed(self, matrix: torch.Tensor) -> torch.Tensor:
        """Sums [grid] over the groups of [outputs, inputs]."""
        return self.split(matrix).sum(dim=1).view(self.grid(matrix.shape))

    def split(self, matrix: torch.Tensor) -> torch.Tensor:
        """The groups of [outputs, inputs, …], [groups, weights of one], row by row.

        Smaller ones at the end are filled up with zeros.
        """
        matrix = matrix.flatten(1)
        rows, columns = self.grid(matrix.shape)
        high, wide = self.group(matrix.shape)
        padding = (0, columns * wide - matrix.size(1), 0, rows * high - matrix.size(0))
        padded = torch.nn.functional.pad(matrix, padding)
        cells = padded.view(rows, high, columns, wide).transpose(1, 2)
        return cells.reshape(rows * columns, high * wide)

    def join(self, groups: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """The matrix of this shape that `split` has taken apart."""
        rows, columns = self.grid(shape)
        high, wide = self.group(shape)
        cells = groups.view(rows, columns, high, wide).transpose(1, 2)
        padded = cells.reshape(rows * high, columns * wide)
        return padded[: shape[0], : shape[1]].reshape(shape)

    def spread(self, groups: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """A value per group, [grid], as a value per weight, [outputs, inputs, …]."""
        high, wide = self.group(shape)
        whole = groups.repeat_interleave(high, 0).repeat_interleave(wide, 1)
        return whole[: shape[0], : shape[1]].reshape(shape)

    def ranks(
        self, magnitudes: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """The place of each group, [grid], from 0 for the one that dies last.

        Masks of all sparsities are cut-offs of it, so they are nested. Of `N:M`, places
        are counted within each M inputs.

        Args:
            magnitudes: See `magnitudes`; or any other importance, finite.
            generator: Breaks ties; on the CPU, so that every rank draws the same.
        """
        # What only fills up the last of M inputs comes last.
        rivals = self._rivals(magnitudes.float(), -torch.inf)
        draws = torch.rand(rivals.shape, generator=generator).to(rivals.device)
        # Sorted stably in a random order, equal ones stay in it.
        order = draws.argsort(dim=-1)
        best = rivals.gather(-1, order).argsort(dim=-1, descending=True, stable=True)
        places = torch.arange(rivals.size(-1), device=rivals.device, dtype=torch.float)
        ranks = torch.empty_like(rivals)
        ranks.scatter_(-1, order.gather(-1, best), places.expand_as(ranks))
        return self._together(ranks, magnitudes.shape)

    def is_ranking(self, ranks: torch.Tensor) -> bool:
        """Whether these, [grid], are what `ranks` gives."""
        places = self._rivals(ranks.double(), torch.inf).sort(dim=-1).values
        there = ~places.isposinf()
        return bool((places == torch.arange(places.size(-1)).to(places))[there].all())

    def mask(self, ranks: torch.Tensor, sparsity: float) -> torch.Tensor:
        """Which groups, bool [grid], are kept at a sparsity.

        Args:
            ranks: See `ranks`.
            sparsity: Share of the groups that is zero; see `count`.
        """
        rivals = self._rivals(ranks, torch.inf)
        numbers = rivals.isfinite().sum(dim=-1, keepdim=True)
        # Without the last digits: (1 - 0.9) · 15 is 1.5, and not a little less.
        shares = ((1 - sparsity) * numbers.double()).round(decimals=9)
        kept = (shares + 0.5).floor()
        return self._together(rivals < kept, ranks.shape)

    def count(self, shape: torch.Size, sparsity: float) -> int:
        """How many groups of a matrix are kept: rounded, a half upwards.

        Of `N:M`, in each M inputs.

        Args:
            shape: Of the matrix.
            sparsity: From 0 to below 1.
        """
        rows, columns = self.grid(shape)
        if self.kept_of is None:
            return self._kept(rows * columns, sparsity)
        full, rest = divmod(columns, self.kept_of[1])
        in_row = full * self._kept(self.kept_of[1], sparsity)
        return rows * (in_row + self._kept(rest, sparsity))

    @staticmethod
    def _kept(number: int, sparsity: float) -> int:
        """How many of rivals are kept; see `mask`."""
        return math.floor(round((1 - sparsity) * number, 9) + 0.5)

    def _rivals(self, groups: torch.Tensor, filling: float) -> torch.Tensor:
        """Groups that compete for the same places, [competitions, rivals].

        Args:
            groups: [grid].
            filling: Where the last of M inputs are fewer.
        """
        if self.kept_of is None:
            return groups.reshape(1, -1)
        of = self.kept_of[1]
        padding = (0, -groups.size(1) % of)
        padded = torch.nn.functional.pad(groups, padding, value=filling)
        return padded.reshape(-1, of)

    def _together(self, rivals: torch.Tensor, grid: torch.Size) -> torch.Tensor:
        """What `_rivals` has taken apart."""
        return rivals.reshape(grid[0], -1)[:, : grid[1]]


_NAMED = {
    "unstructured": Pattern(),
    "rows": Pattern(inputs=None),
    "columns": Pattern(outputs=None),
}
