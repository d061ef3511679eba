"""Sampling rates as ESPnet takes them: a number, or text such as 16k."""

import humanfriendly

from espnet_dynsize.core.errors import ConfigError, one_line


def hertz(value: object) -> object:
    """The number that text stands for; anything else as it is.

    Raises:
        ConfigError: the text is no rate.
    """
    if not isinstance(value, str):
        return value
    try:
        return humanfriendly.parse_size(value)
    except humanfriendly.InvalidSize as error:
        raise ConfigError(
            f"frontend_conf: fs={value} must be a rate such as 16k: {one_line(error)}."
        ) from error
