"""Signatures of mixins over ESPnet's classes."""

import inspect


def merged_signature(cls: type, mixin: type) -> inspect.Signature:
    """All options of `cls`: its own, the mixin's and those of the stock class.

    ESPnet's `--print_config` lists options from signatures, and `**stock` names none.

    Args:
        cls: A class whose bases are a subclass of `mixin` and a stock class.
        mixin: The last class in the order of resolution that passes `**stock` on.
    """
    options: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" in vars(base):
            for name, option in inspect.signature(base.__init__).parameters.items():
                options.setdefault(name, option)
            if not issubclass(base, mixin):
                break  # the stock class
    named = [
        option
        for name, option in options.items()
        if name != "self" and option.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    return inspect.Signature(sorted(named, key=lambda option: option.kind))
