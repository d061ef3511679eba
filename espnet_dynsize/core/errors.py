"""What is raised when a user's input cannot be used."""

import unicodedata

# Categories: controls, halves of a character, other ends of lines
_CONTROLS = ("Cc", "Cs", "Zl", "Zp")
# Format characters that let text be read in another order than it is written
_REORDERING = ("LRE", "RLE", "LRO", "RLO", "LRI", "RLI", "FSI")


class ConfigError(ValueError):
    """Bad input; the message names the key, the value and what is allowed."""


def check(good: bool, key: str, value: object, allowed: str) -> None:
    """Refuse a value.

    Args:
        good: Whether it is allowed.
        key: The config's key, with its section before a colon where it is in one.
        value: What the user gave.
        allowed: What goes after "must be".

    Raises:
        ConfigError: it is not.
    """
    if not good:
        raise ConfigError(f"{key}={value} must be {allowed}.")


def one_line(error: BaseException) -> str:
    """What an error of somebody else's says, to stand inside a sentence."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def printable(text: str) -> str:
    """Text on one line, in which nothing is a command to a terminal.

    Names and tokens come from strangers; control characters are shown as escapes.
    """
    return "".join(c if _harmless(c) else ascii(c)[1:-1] for c in text)


def _harmless(c: str) -> bool:
    if c.isprintable():
        return True
    reorders = unicodedata.bidirectional(c) in _REORDERING
    return unicodedata.category(c) not in _CONTROLS and not reorders
