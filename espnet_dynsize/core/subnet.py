"""A subnet, and how it trains in one step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from espnet_dynsize.core.context import Context
from espnet_dynsize.core.errors import ConfigError, check

FULL = "full"


@dataclass(frozen=True)
class Subnet:
    """A choice of units, without tensors: hashable, yaml in, yaml out.

    Args:
        units: One bool per unit of the encoder, True = kept.
        head: Whose norm statistics it uses, where these exist per size: `full`, or the
            number of a smaller size.
        sparsity: Names of weight matrices in the encoder, sorted, and the share of
            each one's groups that is zero; the others are dense.
    """

    units: tuple[bool, ...]
    head: str = FULL
    sparsity: tuple[tuple[str, float], ...] = ()

    def sparse(self, sparsity: Mapping[str, float]) -> "Subnet":
        """The same units with these sparsities in place of its own."""
        left = tuple(sorted((name, s) for name, s in sparsity.items() if s > 0))
        return replace(self, sparsity=left)

    @classmethod
    def of(cls, kept: Sequence[int], num_units: int, head: str = FULL) -> "Subnet":
        """The subnet of the units at positions `kept`, of `num_units` in all."""
        chosen = set(kept)
        return cls(tuple(unit in chosen for unit in range(num_units)), head)

    @property
    def kept(self) -> tuple[int, ...]:
        """Positions of the kept units."""
        return tuple(i for i, keep in enumerate(self.units) if keep)

    def within(self, units: range) -> tuple[int, ...]:
        """Which of `units` are kept, counted from the first of them."""
        return tuple(i for i, unit in enumerate(units) if self.units[unit])

    def to_yaml(self) -> dict:
        """The subnet as what `from_yaml` reads."""
        content = dict(num_units=len(self.units), kept=list(self.kept), head=self.head)
        # Not for dense ones: versions without sparsity read these, too.
        return content | ({"sparsity": dict(self.sparsity)} if self.sparsity else {})

    @classmethod
    def from_yaml(cls, content: object, source: str = "subnet") -> "Subnet":
        """Read `{num_units: N, kept: [positions], head: full}`; all keys are needed.

        And `sparsity`, matrix → share of its groups, where it is not dense.

        Args:
            content: What the yaml file holds.
            source: Its name, for messages.

        Raises:
            ConfigError: it is not of that form.
        """
        keys = {"num_units", "kept", "head"}
        if not isinstance(content, dict) or set(content) - {"sparsity"} != keys:
            raise ConfigError(
                f"{source} must have the keys {sorted(keys)}, and may have sparsity."
            )
        number, kept = content["num_units"], content["kept"]
        if type(number) is not int or number < 1:
            raise ConfigError(f"{source}: num_units={number} must be a whole number.")
        if not isinstance(kept, list) or any(
            type(unit) is not int or not 0 <= unit < number for unit in kept
        ):
            raise ConfigError(
                f"{source}: kept={kept} must be a list of positions from 0 to "
                f"{number - 1}."
            )
        if len(set(kept)) != len(kept):
            raise ConfigError(f"{source}: kept={kept} names a position twice.")
        sparsity = content.get("sparsity", {})
        good = isinstance(sparsity, dict) and all(
            isinstance(name, str) and type(share) in (int, float) and 0 <= share < 1
            for name, share in sparsity.items()
        )
        allowed = "names of matrices with shares from 0 to below 1"
        check(good, f"{source}: sparsity", sparsity, allowed)
        return cls.of(kept, number, str(content["head"])).sparse(sparsity)


@dataclass(frozen=True, eq=False)
class Sampled:
    """One subnet as it trains in one step.

    Args:
        subnet: The subnet.
        weight: Weight of its loss.
        name: What its statistics are called after.
        gates: Shape [N]; multiplies the units' outputs while searching. A unit that is
            not kept but has a gate (of exactly 0) is computed all the same, without
            gradients of its own, so that its score gets one.
        drop: One stochastic-depth probability per unit (training only).
        masks: Name of a weight matrix → 1 and 0 of its shape: what `subnet.sparsity`
            leaves.
        context: How much of an utterance it sees at a time; None: as the encoder is
            built. For encoders that have a `context`.
    """

    subnet: Subnet
    weight: float = 1.0
    name: str = ""
    gates: torch.Tensor | None = None
    drop: tuple[float, ...] | None = None
    masks: Mapping[str, torch.Tensor] | None = None
    context: Context | None = None


def weight_name(matrix: str) -> str:
    """The state dict's name of a matrix's weight."""
    # The encoder's have their names in the encoder.
    part = "encoder." if matrix.startswith("encoders.") else ""
    return f"{part}{matrix}.weight"
