"""Layer selection: scores, gates, masks and the schedule over them."""

import importlib
import inspect

from espnet_dynsize.errors import ConfigError, check
from espnet_dynsize.selection.family import Family
from espnet_dynsize.selection.fixed import First, Random, Uniform
from espnet_dynsize.selection.iterative_zero_out import IterativeZeroOut
from espnet_dynsize.selection.ortho_softmax import OrthoSoftmax
from espnet_dynsize.selection.schedule import SubnetSchedule
from espnet_dynsize.selection.selector import LayerSelector
from espnet_dynsize.selection.simple_top_k import SimpleTopK

SELECTORS = {
    "simple_top_k": SimpleTopK,
    "iterative_zero_out": IterativeZeroOut,
    "ortho_softmax": OrthoSoftmax,
    "uniform": Uniform,
    "first": First,
    "random": Random,
}
_SCHEDULE_KEYS = ("search_fraction", "search_updates", "score_lr")


def build_schedule(
    selector: str,
    selector_conf: dict,
    family: Family,
    layer_drop_joint: float = 0.0,
    layer_drop_search: float = 0.0,
) -> SubnetSchedule:
    """Build the schedule that a config describes.

    Args:
        selector: A key of `SELECTORS`, or `package.module.Class` of your own.
        selector_conf: Options of the selector, and of the schedule.
        family: The sizes and the units' costs.
        layer_drop_joint: See `SubnetSchedule`.
        layer_drop_search: See `SubnetSchedule`.

    Raises:
        ConfigError: a value is not allowed.
    """
    drops = dict(layer_drop_joint=layer_drop_joint, layer_drop_search=layer_drop_search)
    for key, value in drops.items():
        check(0.0 <= value < 1.0, key, value, "at least 0 and below 1")
    chosen = find_selector(selector)
    conf = dict(selector_conf)
    timing = {k: conf.pop(k) for k in _SCHEDULE_KEYS if k in conf}
    _check_timing(selector, chosen.searches, timing)
    _check_keys(selector, chosen, conf)
    try:
        built = chosen(family, **conf)
    except TypeError as error:
        raise ConfigError(f"selector_conf={conf} of {selector}: {error}.") from error
    return SubnetSchedule(built, **drops, **timing)


def find_selector(name: str) -> type[LayerSelector]:
    """The selector class of that name or dotted path.

    Raises:
        ConfigError: there is none.
    """
    if name in SELECTORS:
        return SELECTORS[name]
    module, _, attribute = str(name).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute) if module else None
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"selector={name} cannot be imported: {error}.") from error
    if not (isinstance(found, type) and issubclass(found, LayerSelector)):
        raise ConfigError(
            f"selector={name} must be one of {sorted(SELECTORS)}, or the dotted path "
            "of a subclass of LayerSelector."
        )
    return found


def _check_keys(name: str, selector: type, conf: dict) -> None:
    allowed = list(inspect.signature(selector).parameters)[1:]
    for key, value in conf.items():
        if key not in allowed:
            raise ConfigError(
                f"selector_conf: {key}={value} is not an option of {name}; it has "
                f"{[*allowed, *_SCHEDULE_KEYS] if selector.searches else allowed}."
            )


def _check_timing(name: str, searches: bool, timing: dict) -> None:
    for key, value in timing.items():
        if not searches:
            raise ConfigError(
                f"selector_conf: {key}={value} must be left out: {name} has no search."
            )
    fraction = timing.get("search_fraction", 0.0)
    if not 0.0 <= fraction < 1.0:
        raise ConfigError(
            f"selector_conf: search_fraction={fraction} must be at least 0 and "
            "below 1; a search as long as the run leaves no joint phase."
        )
    updates = timing.get("search_updates")
    good = updates is None or updates >= 0
    check(good, "selector_conf: search_updates", updates, "at least 0")
    rate = timing.get("score_lr", 1.0)
    check(rate > 0.0, "selector_conf: score_lr", rate, "above 0")
