"""How layers are chosen: by learned scores, or by a rule."""

import importlib
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

SELECTORS = {
    "simple_top_k": SimpleTopK,
    "iterative_zero_out": IterativeZeroOut,
    "ortho_softmax": OrthoSoftmax,
    "uniform": Uniform,
    "first": First,
    "random": Random,
}
_opening = ContextVar("opening", default=False)


@contextmanager
def opening() -> Iterator[None]:
    """Build what a stranger's config describes inside the `with` block.

    No selectors that it names are imported.

    Raises:
        ConfigError: ESPnet cannot build it, or cannot load into it.
    """
    token = _opening.set(True)
    try:
        yield
    except (ConfigError, OSError, MemoryError):
        raise
    except Exception as error:  # whatever ESPnet's parts say of their options
        why = " ".join(str(error).split())
        raise ConfigError(
            "the config describes no model that ESPnet can build: "
            f"{type(error).__name__}: {why.rstrip('.')}."
        ) from error
    finally:
        _opening.reset(token)


def find_selector(name: str) -> type[LayerSelector]:
    """The selector class of a name of `SELECTORS`, or of a dotted path.

    The path's module is imported.

    While `opening`, nothing is imported: `StoredSelector` stands in for it.

    Raises:
        ConfigError: there is none.
    """
    if name in SELECTORS:
        return SELECTORS[name]
    # Masks are in the checkpoint: opening needs no code of the user's.
    if _opening.get():
        return StoredSelector
    module, _, attribute = str(name).rpartition(".")
    try:
        selector = (
            getattr(importlib.import_module(module), attribute) if module else None
        )
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ConfigError(f"selector={name} cannot be imported: {error}.") from error
    if not (isinstance(selector, type) and issubclass(selector, LayerSelector)):
        raise ConfigError(
            f"selector={name} must be one of {sorted(SELECTORS)}, or the dotted path "
            "of a subclass of LayerSelector."
        )
    return selector
