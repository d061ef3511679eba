"""The one way in which files and folders are written: whole, and over nobody's work."""

import glob
import hashlib
import os
import platform
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from espnet_dynsize.core.errors import ConfigError

# Lists, in every folder, what has been written there: lines of `sha256sum`
RECORD = ".written_by_espnet_dynsize"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all.

    Yields a temporary name beside it, which gets the real one when the block ends. An
    existing file is replaced only where this function has written what is in it.

    Args:
        path: The file; its folder is made where it is missing.

    Raises:
        ConfigError: there is a file that was written, or changed, by somebody else.
    """
    path = Path(path)
    with _partial(path) as partial:
        yield partial
        content = digest(partial)
        if path.is_file() and digest(path) == content:
            return
        check_replaceable([path])
        # Recorded first: after a kill in between, the old content is in the record too.
        with (path.parent / RECORD).open("a", encoding="utf-8") as record:
            record.write(f"{content}  {path.name}\n")
        os.replace(partial, path)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Write a file that nobody else writes whole or not at all; see `replacing`."""
    with _partial(path) as partial:
        yield partial
        os.replace(partial, path)


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    with _said_of(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = _scratch(path, "partial")
        try:
            yield partial
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def _said_of(path: Path) -> Iterator[None]:
    """Say of `path` what a disk says of its temporary name, its folder or nothing."""
    try:
        yield
    except OSError as error:
        # Of a copy, the second one is what could not be written.
        named = [n for n in (error.filename, error.filename2) if n is not None]
        paths = [Path(os.fsdecode(name)) for name in named]
        hidden = f".{path.name}."
        own = not paths or any(
            given in path.parents or any(p.startswith(hidden) for p in given.parts)
            for given in paths
        )
        if not own or error.errno is None:
            raise
        why = os.strerror(error.errno)
        raise ConfigError(f"output {path} cannot be written: {why}.") from error
    except RuntimeError as error:
        if not torch_could_not_write(error):
            raise
        raise ConfigError(
            f"output {path} cannot be written: is the disk full?"
        ) from error


def torch_could_not_write(error: Exception) -> bool:
    """Whether this is what `torch.save` raises where a write fails."""
    words = ("iostream error", "inline_container.cc", "PytorchStreamWriter")
    return isinstance(error, RuntimeError) and any(w in str(error) for w in words)


def write_text(path: Path, text: str) -> None:
    """Write a text file; see `replacing`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Write a folder whole or not at all; yields a temporary name beside it.

    Raises:
        ConfigError: it exists.
    """
    path = Path(path)
    check_absent(path)
    # Hidden: patterns like exp/asr_size* must not find what is not finished.
    with _said_of(path):
        unfinished = _scratch(path, "unfinished")
        unfinished.mkdir(parents=True)
        try:
            yield unfinished
            check_absent(path)  # another process may have been faster
            unfinished.rename(path)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def plain_path(path: Path) -> Path:
    """A folder's path that ends in its name, so that others can be put beside it."""
    plain = Path(os.path.normpath(path))
    return plain if plain.name not in ("", "..") else Path(os.path.abspath(plain))


def check_absent(path: Path) -> None:
    """Refuse an output that exists.

    Raises:
        ConfigError: it does.
    """
    if path.exists() or path.is_symlink():
        raise ConfigError(f"output {path} exists; remove or rename it.")


def check_replaceable(paths: Iterable[Path]) -> None:
    """Refuse, before work begins, outputs that are somebody else's.

    Raises:
        ConfigError: one exists that `replacing` has not written.
    """
    for path in paths:
        if (path.exists() or path.is_symlink()) and not _ours(path):
            raise ConfigError(
                f"output {path} was not written by espnet-dynsize, or has been changed "
                "since; remove or rename it."
            )


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _ours(path: Path) -> bool:
    record = path.parent / RECORD
    # A link may lead to a file of the user's.
    if path.is_symlink() or not path.is_file() or not record.is_file():
        return False
    lines = record.read_text(encoding="utf-8", errors="replace").splitlines()
    return f"{digest(path)}  {path.name}" in lines


def _scratch(path: Path, suffix: str) -> Path:
    """A hidden name beside `path`, of this process; those of dead ones are removed."""
    prefix = f".{path.name}.{platform.node()}."
    for left in path.parent.glob(f"{glob.escape(prefix)}*.{suffix}"):
        pid = left.name.removeprefix(prefix).removesuffix(f".{suffix}")
        if pid.isdecimal() and not _alive(int(pid)):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    return path.with_name(f"{prefix}{os.getpid()}.{suffix}")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True
