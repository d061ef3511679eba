"""One process at a time in a folder."""

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from espnet_dynsize.core.errors import ConfigError

NAME = ".lock"


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold the folder's lock inside the block; it ends with the process, however that.

    Args:
        folder: Made where it is missing.
        what: What another process would be doing there, for the message.

    Raises:
        ConfigError: another process holds it, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Not to be written: a user may have a file of that name.
        file = (folder / NAME).open("a")
    except OSError as error:
        why = error.strerror
        raise ConfigError(f"{folder} cannot be written into: {why}.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{folder} is in use: another process is {what} there; wait for it, "
                "or use another folder."
            ) from None
        except OSError as error:  # some network file systems have no locks
            logging.warning(f"{folder} cannot be locked: {error}")
        yield
