"""The types and ranges of options, read from the signatures of what takes them.

An option is checked against its annotation: `bool`, `int`, `float`, `str`, `Literal`,
`list[…]`, `dict[str, …]`, unions, and `Annotated[int | float, Range(…)]`. YAML has
types: a string is no number, a number no boolean, a boolean no number.
"""

import difflib
import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from espnet_dynsize.core.errors import ConfigError, check


@dataclass(frozen=True)
class Range:
    """Bounds of a number, in words and in figures.

    Args:
        low: The least.
        high: The most.
        open_low: `low` itself is not allowed.
        open_high: `high` itself is not allowed.
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        words = []
        if self.low > -math.inf:
            words.append(f"{'above' if self.open_low else 'at least'} {self.low}")
        if self.high < math.inf:
            words.append(f"{'below' if self.open_high else 'at most'} {self.high}")
        return " and ".join(words)


class NotEmpty:
    """Of a list: there is something in it."""

    def __contains__(self, value: list) -> bool:
        return len(value) > 0

    def __str__(self) -> str:
        return "not empty"


Count = typing.Annotated[int, Range(1)]
Fraction = typing.Annotated[float, Range(0, 1, open_low=True)]
Share = typing.Annotated[float, Range(0, 1, open_high=True)]
NotNegative = typing.Annotated[float, Range(0)]
Positive = typing.Annotated[float, Range(0, open_low=True)]


def check_options(
    section: str,
    options: object,
    owner: str,
    *takers: Callable,
    taken: Collection[str] = (),
) -> None:
    """Refuse options that are unknown, or of a wrong type or range.

    Args:
        section: The config's key that holds them.
        options: What the config has there; null for none.
        owner: Whose options they are, for the message.
        *takers: The classes or functions that get them as keyword arguments.
        taken: Their arguments that do not come from the config.

    Raises:
        ConfigError: one is.
    """
    if options is None:  # so ESPnet writes what is not set
        return
    check(isinstance(options, Mapping), section, options, "a section of keys")
    known = [key for taker in takers for key in inspect.signature(taker).parameters]
    known = [key for key in known if key not in taken]
    hints = {k: v for taker in takers for k, v in annotations(taker).items()}
    for key, value in options.items():
        if key not in known:
            raise ConfigError(
                f"{section}: {key}={value} is not an option of {owner}; "
                f"{_suggestion(str(key), known)}"
            )
        if key in hints:
            check_value(f"{section}: {key}", value, hints[key])


def annotations(taker: Callable) -> dict[str, object]:
    """Name → annotation of a function's or a class's options.

    Of a class, those of its bases too, up to the first one of ESPnet that has options,
    or to torch's.
    """
    functions = [taker]
    if isinstance(taker, type):
        functions = []
        for base in taker.__mro__:
            package = base.__module__.partition(".")[0]
            if package in _ENDS:
                break
            if "__init__" in vars(base):
                functions.append(vars(base)["__init__"])
                if package in _STOCK:
                    break
    hints: dict[str, object] = {}
    for function in functions:
        for key, hint in typing.get_type_hints(function, include_extras=True).items():
            hints.setdefault(key, hint)
    return hints


def check_value(key: str, value: object, annotation: object) -> None:
    """Refuse a value that does not fit its annotation.

    Raises:
        ConfigError: it does not.
    """
    allowed = words(annotation)
    if _too_large(value):
        allowed += f" (and no number beyond {LARGEST:.0e})"
    elif is_number_as_text(value):
        allowed += ", not text (yaml reads 1e-3 as text: write 1.0e-3)"
    check(fits(value, annotation), key, value, allowed)


def is_number_as_text(value: object) -> bool:
    """Whether a string is a number to Python, which yaml has not read as one."""
    if not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True


def check_numbers(section: str, values: object) -> None:
    """Refuse numbers that are not finite, however deep in a section.

    Raises:
        ConfigError: there is one.
    """
    if isinstance(values, Mapping):
        for key, value in values.items():
            check_numbers(f"{section}: {key}", value)
    elif isinstance(values, list | tuple):
        for value in values:
            check_numbers(section, value)
    elif isinstance(values, float):
        check(math.isfinite(values), section, values, "a finite number")


def _too_large(value: object) -> bool:
    return type(value) in (int, float) and abs(value) > LARGEST


def fits(value: object, annotation: object = typing.Any) -> bool:
    """Whether a value out of a yaml file fits an annotation."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return fits(value, parts[0]) and all(value in bound for bound in parts[1:])
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, part) for part in parts)
    if origin is typing.Literal:
        # An unhashable value, or True == 1, is not one of them.
        return any(type(value) is type(part) and value == part for part in parts)
    if origin in (list, tuple):
        inside = isinstance(value, list | tuple)
        # ESPnet has lists of nothing in particular.
        return inside and all(fits(part, *parts[:1]) for part in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            fits(k, *parts[:1]) and fits(v, *parts[1:]) for k, v in value.items()
        )
    if annotation in (int, float) and _too_large(value):
        return False
    if annotation is float:
        return type(value) in (int, float) and math.isfinite(value)
    if annotation in (None, types.NoneType):
        return value is None
    if annotation in (bool, int, str, list, dict):
        return type(value) is annotation
    return True  # ESPnet's own, or a user's: not for a yaml file


# More than any option needs; float32 and C integers hold it with room for sums
LARGEST = 1e9
# Packages whose classes know all of their options, and those that have none for us
_STOCK = ("espnet", "espnet2", "espnet3")
_ENDS = ("torch", "builtins")
_PLAIN = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a name",
    list: "a list",
    dict: "a section of keys",
    types.NoneType: "null",
}


def words(annotation: object) -> str:
    """What fits an annotation, to stand after "must be"."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        # "above 0" says that it is a number.
        kind = [] if parts[0] is float else [words(parts[0])]
        return ", ".join([*kind, *map(str, parts[1:])])
    if origin in (types.UnionType, typing.Union):
        return " or ".join(words(part) for part in parts)
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin in (list, tuple, dict) and not parts:
        return _PLAIN.get(origin, "a list")
    if origin in (list, tuple):
        return f"a list, each {words(parts[0])}"
    if origin is dict:
        return f"a section of keys ({words(parts[0])}), each {words(parts[1])}"
    return _PLAIN.get(annotation, str(annotation))


def _suggestion(key: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {close[0]}?" if close else f"it has {', '.join(known)}."
