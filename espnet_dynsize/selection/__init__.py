"""Layer selection: scores, gates, masks and the schedule over them."""

from collections.abc import Sequence

from espnet_dynsize.errors import ConfigError
from espnet_dynsize.selection.schedule import SubnetSchedule, check_sizes
from espnet_dynsize.selection.simple_top_k import SimpleTopK

SELECTORS = {"simple_top_k": SimpleTopK}


def build_schedule(
    selector: str,
    selector_conf: dict,
    num_layers: int,
    sizes: Sequence[int] | None,
    layer_drop_joint: float,
) -> SubnetSchedule:
    """Build the schedule that a config describes.

    Raises:
        ConfigError: a value is not allowed.
    """
    if selector not in SELECTORS:
        raise ConfigError(f"selector={selector} must be one of {sorted(SELECTORS)}.")
    if not 0.0 <= layer_drop_joint < 1.0:
        raise ConfigError(
            f"layer_drop_joint={layer_drop_joint} must be at least 0 and below 1."
        )
    sizes = check_sizes(sizes, num_layers)
    conf = dict(selector_conf)
    timing = {
        k: conf.pop(k) for k in ("search_fraction", "search_updates") if k in conf
    }
    _check_timing(**timing)
    try:
        built = SELECTORS[selector](num_layers, sizes, **conf)
    except TypeError as error:
        raise ConfigError(f"selector_conf of {selector}: {error}.") from error
    return SubnetSchedule(built, layer_drop_joint=layer_drop_joint, **timing)


def _check_timing(
    search_fraction: float = 0.0, search_updates: int | None = None
) -> None:
    if not 0.0 <= search_fraction < 1.0:
        raise ConfigError(
            f"selector_conf: search_fraction={search_fraction} must be at least 0 and "
            "below 1; a search as long as the run leaves no joint phase."
        )
    if search_updates is not None and search_updates < 0:
        raise ConfigError(
            f"selector_conf: search_updates={search_updates} must be at least 0."
        )
