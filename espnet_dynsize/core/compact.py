"""Sparse matrices in checkpoints: a bit for each group, and the weights that are left.

Of a weight `x` there are three tensors in its place: `x.values`, the weights of the
kept groups in the order in which the dense matrix has them; `x.groups`, a bit for each
group, packed in bytes; `x.layout`, the outputs and inputs of a group and the dense
shape.
"""

import math
from collections.abc import Mapping

import torch

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.pattern import Pattern

VALUES, GROUPS, LAYOUT = ".values", ".groups", ".layout"
# More zeros than this for each weight that is left are no model's.
_MOST_ZEROS = 1_000


def pack_states(
    states: Mapping[str, torch.Tensor], patterns: Mapping[str, Pattern]
) -> dict[str, torch.Tensor]:
    """A state dict with sparse matrices in the compact form.

    Args:
        states: State dict.
        patterns: Name of a weight in it → pattern of its zeros. One that has none stays
            as it is.
    """
    packed: dict[str, torch.Tensor] = {}
    for name, value in states.items():
        pattern = patterns.get(name)
        kept = None if pattern is None else pattern.magnitudes(value) > 0
        readable = kept is not None and int(kept.sum()) * _MOST_ZEROS >= kept.numel()
        if not readable or bool(kept.all()):
            packed[name] = value
            continue
        packed[name + VALUES] = value[pattern.spread(kept, value.shape)]
        packed[name + GROUPS] = _to_bits(kept)
        layout = [*pattern.group(value.shape), *value.shape]
        packed[name + LAYOUT] = torch.tensor(layout)
    return packed


def unpack_states(states: dict, source: str, prefix: str = "") -> None:
    """Make compact matrices dense, in place; what is dense stays as it is.

    Args:
        states: State dict.
        source: Its name, for messages.
        prefix: Of the names to look at.

    Raises:
        ConfigError: the parts of a matrix do not fit each other.
    """
    for key in [k for k in states if k.startswith(prefix) and k.endswith(LAYOUT)]:
        name = key.removesuffix(LAYOUT)
        parts = [states.get(name + part) for part in (VALUES, GROUPS, LAYOUT)]
        if any(part is None for part in parts):
            raise ConfigError(f"{source}: {name} lacks a part of its compact form.")
        wrong = _misfit(*parts)
        if wrong is not None:
            raise ConfigError(f"{source}: {name} has a compact form that {wrong}.")
        if name in states or not name:
            raise ConfigError(f"{source}: {key} stands beside a dense matrix.")
        for part in (VALUES, GROUPS, LAYOUT):
            del states[name + part]
        states[name] = _dense(*parts)


def _dense(
    values: torch.Tensor, groups: torch.Tensor, layout: torch.Tensor
) -> torch.Tensor:
    pattern, shape = _read(layout)
    dense = torch.zeros(shape, dtype=values.dtype)
    dense[_mask(pattern, shape, groups)] = values
    return dense


def _read(layout: torch.Tensor) -> tuple[Pattern, torch.Size]:
    high, wide, *shape = layout.tolist()
    return Pattern(high, wide), torch.Size(shape)


def _mask(pattern: Pattern, shape: torch.Size, groups: torch.Tensor) -> torch.Tensor:
    rows, columns = pattern.grid(shape)
    bits = _from_bits(groups, rows * columns).view(rows, columns)
    return pattern.spread(bits, shape)


def _misfit(
    values: torch.Tensor, groups: torch.Tensor, layout: torch.Tensor
) -> str | None:
    """What is wrong with a matrix's parts; None where they fit."""
    if layout.dtype != torch.int64 or layout.dim() != 1 or len(layout) not in (4, 5):
        return "has no layout"
    if min(layout.tolist()) < 1 or (len(layout) == 5 and layout[-1] != 1):
        return f"has the layout {layout.tolist()}"
    if groups.dtype != torch.uint8 or values.dim() != 1 or groups.dim() != 1:
        return "has groups or values of another kind"
    pattern, shape = _read(layout)
    if layout[0] > shape[0] or layout[1] > shape[1]:
        return f"has the layout {layout.tolist()}"
    if values.untyped_storage().nbytes() < values.numel() * values.element_size():
        return "stores fewer values than it has"
    number = math.prod(shape)
    # Before anything of that size is made
    if number > _MOST_ZEROS * max(len(values), 1):
        return f"would be {number} weights, of which {len(values)} are stored"
    rows, columns = pattern.grid(shape)
    if len(groups) != -(-rows * columns // 8):
        return f"has {len(groups)} bytes of groups where {rows}x{columns} need others"
    if _from_bits(groups, 8 * len(groups))[rows * columns :].any():
        return "has groups beyond its last"
    kept = int(_mask(pattern, shape, groups).sum())
    if kept != len(values):
        return f"keeps {kept} weights, of which {len(values)} are stored"
    return None


_POWERS = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)


def _to_bits(kept: torch.Tensor) -> torch.Tensor:
    """Uint8 [ceil(n / 8)] for n bools; the first one is the lowest bit."""
    bits = kept.flatten().to(torch.uint8).cpu()
    padded = torch.nn.functional.pad(bits, (0, -len(bits) % 8)).view(-1, 8)
    return (padded * _POWERS).sum(dim=1, dtype=torch.uint8)


def _from_bits(packed: torch.Tensor, number: int) -> torch.Tensor:
    bits = packed.cpu()[:, None].bitwise_and(_POWERS) > 0
    return bits.flatten()[:number]
