"""The family of sizes that an encoder's options describe."""

from collections.abc import Sequence

from espnet_dynsize.encoder.cost import unit_flops, unit_params
from espnet_dynsize.errors import ConfigError
from espnet_dynsize.selection.family import (
    Family,
    family_of_budgets,
    family_of_counts,
)

GRANULARITIES = ["layer", "component"]
BUDGETS = {"flops": unit_flops, "params": unit_params}


def encoder_family(
    encoder,
    input_size: int,
    sizes: Sequence[int] | None,
    budgets: dict[str, Sequence[float]] | None,
    granularity: str,
) -> Family:
    """The family of `sizes` or of `budgets`.

    Raises:
        ConfigError: the options are out of range or exclude each other.
    """
    if budgets is None:
        if sizes is not None and granularity == "component":
            raise ConfigError(
                f"sizes={list(sizes)} counts layers: with granularity=component "
                "give budgets."
            )
        return family_of_counts(sizes, encoder.num_units)
    if sizes is not None:
        raise ConfigError(
            f"sizes={list(sizes)} and budgets={budgets} exclude each other."
        )
    if len(budgets) != 1 or set(budgets) - set(BUDGETS):
        raise ConfigError(
            f"budgets={budgets} must have one key of {list(BUDGETS)}, with a list."
        )
    ((kind, fractions),) = budgets.items()
    return family_of_budgets(kind, fractions, *BUDGETS[kind](encoder, input_size))


def units_to_keep(
    keep_layers: list[int] | None,
    keep_components: list[int] | None,
    granularity: str,
    sizes: Sequence[int] | None,
    budgets: dict | None,
) -> tuple[str, list[int]] | None:
    """The units of an extracted model and the key that names them, or None.

    Raises:
        ConfigError: the key does not go with the other options.
    """
    given = {"keep_layers": keep_layers, "keep_components": keep_components}
    given = {key: units for key, units in given.items() if units is not None}
    if not given:
        return None
    ((key, units), *_) = given.items()
    if key != f"keep_{granularity}s":
        raise ConfigError(f"{key} does not go with granularity={granularity}.")
    if sizes is not None or budgets is not None:
        family = f"sizes={sizes}" if sizes is not None else f"budgets={budgets}"
        raise ConfigError(
            f"{key} and {family} exclude each other: an extracted model has one size."
        )
    return key, units
