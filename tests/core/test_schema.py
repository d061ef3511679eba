"""Options are checked against the annotations of what takes them."""

import math
from typing import Annotated, Literal  # noqa: UP035

import pytest

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.schema import (
    Count,
    Fraction,
    NotEmpty,
    NotNegative,
    Positive,
    Range,
    Share,
    annotations,
    check_options,
    fits,
    words,
)

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    "annotation, good, bad",
    [
        (bool, [True, False], ["false", "no", 0, 1, None, []]),
        (int, [0, -3], [True, 1.0, "1", None, [1], 10**30]),
        (
            float,
            [0, 0.5, -1e9],
            [1e30, -1e10, True, NAN, INF, -INF, "0.5", None, [0.5]],
        ),
        (str, ["a"], [1, None, ["a"], True]),
        (dict, [{}, {"a": 1}], [None, [], "a", 1]),
        (Count, [1, 24], [0, -1, True, 1.0, NAN, "1"]),
        (Fraction, [1, 0.3], [0, 1.01, NAN, True]),
        (Share, [0, 0.99], [1, -0.1, INF]),
        (Positive, [0.1, 5], [0, -1, INF, NAN]),
        (NotNegative, [0, 5.0], [-0.1, INF]),
        (Literal["a", "b"], ["a"], ["c", ["a"], {}, None, 1]),
        (Literal[1], [1], [True, 1.0]),
        (list[Count], [[], [1, 2], (3,)], [[0], [True], "12", {"1": 1}, 3, None]),
        (Annotated[list[int], NotEmpty()], [[0]], [[], ["a"]]),
        (dict[Literal["a"], list[Share]], [{"a": [0]}], [{"b": [0]}, {"a": 0}, [0]]),
        (int | None, [None, 3], ["3", True, 3.5]),
        (list, [[], [1, "a"]], ["a", None, {}]),  # as ESPnet annotates
        (list | None, [None, []], [3]),
        (dict, [{}, {1: "a"}], [[], None]),
    ],
)
def test_what_fits(annotation, good, bad):
    assert [value for value in good if not fits(value, annotation)] == []
    assert [value for value in bad if fits(value, annotation)] == []


@pytest.mark.parametrize(
    "annotation, text",
    [
        (bool, "true or false"),
        (Count, "a whole number, at least 1"),
        (Share, "at least 0 and below 1"),
        (Fraction, "above 0 and at most 1"),
        (Positive | None, "above 0 or null"),
        (Annotated[float, Range(high=2, open_high=True)], "below 2"),
        (Literal["a", "b"], "one of a, b"),
        (list[Count], "a list, each a whole number, at least 1"),
        (
            dict[Literal["a", "b"], list[float]],
            "a section of keys (one of a, b), each a list, each a number",
        ),
        (Annotated[list[int], NotEmpty()], "a list, each a whole number, not empty"),
        (list, "a list"),
        (dict, "a section of keys"),
    ],
)
def test_words(annotation, text):
    assert words(annotation) == text


class Above:
    def __init__(self, depth: int = 3):
        pass


class Stock(Above):
    """Stands for a class of ESPnet's."""

    def __init__(self, width: int = 3):
        pass


Stock.__module__ = "espnet2.stock"


class Mixin:
    def __init__(self, height: Count = 1, **stock):
        pass


class Both(Mixin, Stock):
    def __init__(self, wide: bool = False, **options):
        pass


def test_annotations_end_with_the_stock_class():
    assert annotations(Both) == {"wide": bool, "height": Count, "width": int}


def taker(steps: Count = 1, share: Share = 0.0, name: str = "a"):
    pass


@pytest.mark.parametrize(
    "options, message",
    [
        ({"steps": 0}, "s: steps=0 must be a whole number, at least 1."),
        (
            {"steps": 10**30},
            f"s: steps={10**30} must be a whole number, at least 1 (and no number "
            "beyond 1e+09).",
        ),
        ({"share": NAN}, "s: share=nan must be at least 0 and below 1."),
        (
            {"share": "1e-3"},
            "s: share=1e-3 must be at least 0 and below 1, not text (yaml reads 1e-3 "
            "as text: write 1.0e-3).",
        ),
        ({"stepps": 1}, "s: stepps=1 is not an option of it; did you mean steps?"),
        ({"zzz": 1}, "s: zzz=1 is not an option of it; it has steps, share."),
        ({1: 1}, "s: 1=1 is not an option of it; it has steps, share."),
        ({"name": "b"}, "s: name=b is not an option of it; it has steps, share."),
        ([1], "s=[1] must be a section of keys."),
        ("x", "s=x must be a section of keys."),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ConfigError) as error:
        check_options("s", options, "it", taker, taken=("name",))
    assert str(error.value) == message


def test_good_options():
    check_options("s", None, "it", taker)
    check_options("s", {}, "it", taker)
    check_options("s", {"steps": 3, "share": 0, "name": "b"}, "it", taker)
    check_options("s", {"steps": 3, "height": 2}, "it", taker, Mixin)
