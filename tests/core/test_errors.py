import pytest

from espnet_dynsize.core.errors import printable


@pytest.mark.parametrize(
    "text, shown",
    [
        ("a b", "a b"),
        ("\x1b[31mA\x07\x9b2J", "\\x1b[31mA\\x07\\x9b2J"),
        ("a\nb\tc\u2028d", "a\\nb\\tc\\u2028d"),
        ("\u202egnp", "\\u202egnp"),  # read from right to left
        # Spaces, and joiners that Persian and Hindi are written with
        ("年\u3000月 \xa0 می\u200cخواهم", "年\u3000月 \xa0 می\u200cخواهم"),
        # Marks of Hebrew, hyphens that are not shown, private and unknown characters
        ("\u05e9\u200f! a\u00adb \ue000 \U000323b0",) * 2,
    ],
)
def test_nothing_is_a_command_to_a_terminal(text, shown):
    assert printable(text) == shown
