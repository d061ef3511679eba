"""What is raised when a user's input cannot be used."""


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
