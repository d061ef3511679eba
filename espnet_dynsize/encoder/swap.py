"""Give a module that ESPnet has built another class, under the same parameter names."""

import functools

import torch


def swap_class(module: torch.nn.Module, mixin: type) -> None:
    """Put `mixin` before the module's own class, in place."""
    # ESPnet's constructors name the classes that they build, so it is done afterwards.
    module.__class__ = swapped_class(mixin, type(module))


@functools.cache
def swapped_class(mixin: type, stock: type) -> type:
    """The class of a swapped module; the same one for the same arguments.

    Args:
        mixin: Its methods come first. Where it has `attributes(stock)`, these are the
            class's, too.
        stock: ESPnet's class.
    """

    def reduce(self, protocol):
        # The class has no name in any module: copies and pickles make it again.
        return _remade, (mixin, stock), self.__dict__

    attributes = {"__reduce_ex__": reduce}
    if hasattr(mixin, "attributes"):
        attributes |= mixin.attributes(stock)
    return type(f"{mixin.__name__}{stock.__name__}", (mixin, stock), attributes)


def _remade(mixin: type, stock: type) -> torch.nn.Module:
    # Cached: the class of the original. Its state comes after, so no `__init__`.
    cls = swapped_class(mixin, stock)
    return cls.__new__(cls)
