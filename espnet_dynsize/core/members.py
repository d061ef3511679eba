"""Members of a family: its sizes, its sparsities, and both together, by name."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from espnet_dynsize.core.errors import check
from espnet_dynsize.core.keys import family_sizes
from espnet_dynsize.core.schema import Share, check_value


def percent(level: float) -> int:
    """What a sparsity is called after."""
    return round(100 * level)


class Member(NamedTuple):
    """A subnet with a name.

    Args:
        size: Of the family; None where the family has one size only.
        sparsity: Per cent of the groups of every matrix that are zero; None in a
            family without sparsities.
    """

    size: int | None
    sparsity: int | None = None

    @property
    def name(self) -> str:
        """`16`, `sparsity70` or `16_sparsity70`; a dense size is called by its size."""
        if self.size is None:
            return f"sparsity{self.sparsity}"
        return (
            f"{self.size}_sparsity{self.sparsity}" if self.sparsity else f"{self.size}"
        )

    @property
    def suffix(self) -> str:
        """What the folder's name ends in: `size16`, `size16_sparsity70`, …"""
        return self.name if self.size is None else f"size{self.name}"

    @property
    def label(self) -> int | str:
        """The name as yaml reads it: that of a dense size is a number."""
        return int(self.name) if self.name.isdecimal() else self.name

    def __str__(self) -> str:
        return self.name


def members(sizes: Sequence[int], sparsities: Sequence[int]) -> list[Member]:
    """All members: smallest first, and of a size the densest.

    Args:
        sizes: Of the family; none, or one, where no layers are chosen.
        sparsities: In per cent; empty in a family without.
    """
    named = list(sizes) if len(sizes) > 1 or not sparsities else [None]
    return [Member(size, s) for size in named for s in (sparsities or [None])]


ALL = "all"


def choose(
    family: Sequence[Member], size: str | None, sparsity: str | None
) -> list[Member]:
    """The members of a size and a sparsity.

    Args:
        family: All members.
        size: One of the family's, or `all`; None: the full one where a sparsity is
            given.
        sparsity: A level, or `all`; None: dense.

    Raises:
        ConfigError: there is none.
    """
    sizes = sorted({member.size for member in family if member.size is not None})
    levels = sorted({m.sparsity for m in family if m.sparsity is not None})
    if size is not None:
        allowed = f"one of {sizes} or all" if sizes else "left out: there is one size"
        check(size == ALL or size in map(str, sizes), "size", size, allowed)
    if sparsity is not None:
        shown = [level / 100 for level in levels]
        allowed = f"one of {shown} or all" if levels else "left out: there is none"
        check(
            sparsity == ALL or _per_cent(sparsity) in levels,
            "sparsity",
            sparsity,
            allowed,
        )
    if size is None:
        wanted = sizes[-1:] or [None]
    else:
        wanted = sizes if size == ALL else [int(size)]
    if sparsity is None:
        per_cent = levels[:1] or [None]
    else:
        per_cent = levels if sparsity == ALL else [_per_cent(sparsity)]
    return [m for m in family if m.size in wanted and m.sparsity in per_cent]


def _per_cent(level: str) -> int | None:
    try:
        return percent(float(level))
    except (ValueError, OverflowError):
        return None


def family_members(config: Mapping) -> list[Member]:
    """The members that a supernet's config names, smallest first.

    Raises:
        ConfigError: what it has there are no sizes, no budget or no sparsities.
    """
    conf = config["model_conf"]
    has_sizes = conf.get("sizes") is not None or conf.get("budgets") is not None
    sparsity = conf.get("sparsity")
    if sparsity is None:
        return members(family_sizes(config), [])
    check_value("model_conf: sparsity", sparsity, dict)
    # Of `method: mest` there is one.
    levels = [sparsity["target"]] if "target" in sparsity else sparsity.get("levels")
    check_value("model_conf: sparsity: levels", levels, list[Share])
    per_cent = [percent(level) for level in levels]
    return members(family_sizes(config) if has_sizes else [], per_cent)


def with_member(config: dict, member: Member) -> dict:
    """The config with which a supernet's checkpoint computes as `member`."""
    return {**config, "model_conf": {**config["model_conf"], "subnet": member.label}}
