"""How layers are chosen: by learned scores, or by a rule."""

import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from espnet_dynsize.control.selectors.fixed import First, Random, Uniform
from espnet_dynsize.control.selectors.iterative_zero_out import IterativeZeroOut
from espnet_dynsize.control.selectors.ortho_softmax import OrthoSoftmax
from espnet_dynsize.control.selectors.selector import LayerSelector
from espnet_dynsize.control.selectors.simple_top_k import SimpleTopK
from espnet_dynsize.control.selectors.stored import StoredSelector
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.family import Family

SELECTORS = {
    "simple_top_k": SimpleTopK,
    "iterative_zero_out": IterativeZeroOut,
    "ortho_softmax": OrthoSoftmax,
    "uniform": Uniform,
    "first": First,
    "random": Random,
}
# Keys of `selector_conf` that belong to the search, not to the selector
SEARCH_KEYS = ("search_fraction", "search_updates", "score_lr")
_opening = ContextVar("opening", default=False)


@contextmanager
def opening() -> Iterator[None]:
    """Import no selectors that a config names inside the `with` block."""
    token = _opening.set(True)
    try:
        yield
    finally:
        _opening.reset(token)


def build_selector(name: str, conf: dict, family: Family) -> LayerSelector:
    """Build a selector.

    Args:
        name: A key of `SELECTORS`, or `package.module.Class` of your own.
        conf: Its options.
        family: The sizes and the units' costs.

    Raises:
        ConfigError: there is no such selector or option.
    """
    # Masks are in the checkpoint: opening needs no code of the user's.
    if name not in SELECTORS and _opening.get():
        return StoredSelector(family)
    selector = find_selector(name)
    _check_keys(name, selector, conf)
    try:
        return selector(family, **conf)
    except TypeError as error:
        raise ConfigError(f"selector_conf={conf} of {name}: {error}.") from error


def find_selector(name: str) -> type[LayerSelector]:
    """The selector class of that name or dotted path, which is imported.

    Raises:
        ConfigError: there is none.
    """
    if name in SELECTORS:
        return SELECTORS[name]
    module, _, attribute = str(name).rpartition(".")
    try:
        selector = (
            getattr(importlib.import_module(module), attribute) if module else None
        )
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"selector={name} cannot be imported: {error}.") from error
    if not (isinstance(selector, type) and issubclass(selector, LayerSelector)):
        raise ConfigError(
            f"selector={name} must be one of {sorted(SELECTORS)}, or the dotted path "
            "of a subclass of LayerSelector."
        )
    return selector


def _check_keys(name: str, selector: type, conf: dict) -> None:
    # The first one is the family.
    allowed = list(inspect.signature(selector).parameters)[1:]
    for key, value in conf.items():
        if key not in allowed:
            raise ConfigError(
                f"selector_conf: {key}={value} is not an option of {name}; it has "
                f"{[*allowed, *SEARCH_KEYS] if selector.searches else allowed}."
            )
