"""From the keys of `model_conf` to the family, its selection and its sampler."""

import math
from collections.abc import Sequence

import torch

from espnet_dynsize.control.sampler import SANDWICHES
from espnet_dynsize.control.schedule import Schedule
from espnet_dynsize.control.selection import Search, Selection
from espnet_dynsize.control.selectors import SEARCH_KEYS, build_selector
from espnet_dynsize.control.selectors.stored import StoredSelector
from espnet_dynsize.core.errors import ConfigError, check_all
from espnet_dynsize.core.family import Family, family_of_budgets, family_of_counts
from espnet_dynsize.encoder import costs
from espnet_dynsize.encoder.supernet import Supernet

# What a budget can count → how an encoder's units are measured in it
BUDGETS = {"flops": costs.flops, "params": costs.parameters}


def build_family(
    encoder: Supernet,
    sizes: Sequence[int] | None,
    budgets: dict[str, Sequence[float]] | None,
) -> Family:
    """The family of `sizes` or of `budgets`.

    Raises:
        ConfigError: neither or both are given, or they are out of range.
    """
    if (sizes is None) == (budgets is None):
        raise ConfigError(
            f"model_conf: sizes={sizes} and budgets={budgets}: model: dynsize needs "
            "one of them; a cut model trains with model: espnet."
        )
    if encoder.is_cut:
        raise ConfigError(
            "model: dynsize is not for an encoder with keep_layers or keep_components: "
            "a cut model trains with model: espnet."
        )
    if sizes is not None:
        # A count of units would mean heads and chunks of very different cost.
        if len(encoder.layers) != encoder.num_units:
            raise ConfigError(
                f"sizes={sizes} counts layers: with granularity=component give budgets."
            )
        return family_of_counts(sizes, encoder.num_units)
    if not isinstance(budgets, dict) or len(budgets) != 1 or set(budgets) - {*BUDGETS}:
        raise ConfigError(
            f"budgets={budgets} must have one key of {list(BUDGETS)}, with a list."
        )
    ((kind, fractions),) = budgets.items()
    return family_of_budgets(kind, fractions, BUDGETS[kind](encoder))


def build_schedule(
    family: Family,
    selector: str,
    selector_conf: dict | None,
    sandwich: str = "alternate",
) -> Schedule:
    """The schedule of a run.

    Raises:
        ConfigError: the selector or one of its options is not allowed.
    """
    conf = dict(selector_conf or {})
    timing = {key: conf.pop(key) for key in SEARCH_KEYS if key in conf}
    # A stock model of the same seed starts from the same weights.
    with torch.random.fork_rng(devices=()):
        chosen = build_selector(selector, conf, family)
    opened = isinstance(chosen, StoredSelector)  # of a model that does not search again
    for key, value in timing.items():
        if not chosen.searches and not opened:
            raise ConfigError(
                f"selector_conf: {key}={value} must be left out: {selector} has no "
                "search."
            )
    search = Search(**timing) if chosen.searches else Search(search_fraction=0.0)
    return Schedule(selection=Selection(chosen, search, SANDWICHES[sandwich]))


def check_numbers(
    subnet_weight: float,
    distill_weight: float,
    layer_drop_joint: float,
    layer_drop_search: float,
    sandwich: str,
) -> None:
    """Refuse values of `model_conf` that are out of range.

    Raises:
        ConfigError: one is.
    """
    below_one = "at least 0 and below 1"
    check_all(
        "model_conf",
        (0 < subnet_weight < math.inf, "subnet_weight", subnet_weight, "above 0"),
        (
            0 <= distill_weight < math.inf,
            "distill_weight",
            distill_weight,
            "at least 0",
        ),
        (0 <= layer_drop_joint < 1, "layer_drop_joint", layer_drop_joint, below_one),
        (0 <= layer_drop_search < 1, "layer_drop_search", layer_drop_search, below_one),
        (sandwich in SANDWICHES, "sandwich", sandwich, f"one of {tuple(SANDWICHES)}"),
    )
