"""Unpacking a model's zip that comes from a stranger."""

import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from espnet2.main_funcs.pack_funcs import unpack as unpack_files

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.yaml_base import parse_yaml

META = "meta.yaml"
# Weights hardly shrink; configs and token lists do, but are small.
MOST_BYTES = 100_000_000
MOST_GROWTH = 20
MOST_MEMBERS = 2_000
# ESPnet compares every value of a config with every member's name.
MOST_COMPARED = 20_000_000
# What zipfile and ESPnet raise of a broken one; NotImplementedError: a compression that
# Python does not know
_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError),
    *(EOFError, KeyError, ValueError, UnicodeDecodeError, OSError),
)


def unpack(path: Path, folder: Path) -> dict[str, str]:
    """Unpack what `espnet2.bin.pack` has packed.

    Args:
        path: The zip.
        folder: Where to; nothing is written elsewhere.

    Returns:
        Option of `Speech2Text` → the file that it names.

    Raises:
        ConfigError: the zip is broken, too large, or no packed model.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive)
            meta = _read_meta(path, archive)
            _check_configs(path, archive, meta)
            # The whole zip is read: what is broken in it is found before it is used.
            broken = archive.testzip()
            if broken is not None:
                raise zipfile.BadZipFile(f"{broken} is damaged")
        return unpack_files(path, folder)
    except ConfigError:
        raise
    except _BROKEN as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"path={path} is not a packed ESPnet model: {why.rstrip('.')}."
        ) from error


def _check_members(path: Path, archive: zipfile.ZipFile) -> None:
    members = archive.infolist()
    size = sum(member.file_size for member in members)
    if size > max(MOST_BYTES, MOST_GROWTH * path.stat().st_size):
        raise ConfigError(
            f"path={path} unpacks to {size / 1e6:.0f} MB, which is more than "
            f"{MOST_GROWTH} times its size: it is not a packed model."
        )
    if len(members) > MOST_MEMBERS:
        raise ConfigError(
            f"path={path} has {len(members)} files; at most {MOST_MEMBERS} are allowed."
        )
    names = [member.filename for member in members]
    if len(set(names)) != len(names):
        # Python gives one of them, ESPnet takes another.
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"path={path} has the member {twice} more than once.")
    for member in members:
        name = PurePosixPath(member.filename)
        link = stat.S_ISLNK(member.external_attr >> 16)
        if name.is_absolute() or ".." in name.parts or link:
            raise ConfigError(
                f"path={path} has the member {member.filename}, which leads out of it."
            )


def _read_meta(path: Path, archive: zipfile.ZipFile) -> dict[str, str]:
    """Names of the yaml files in the zip, by option."""
    inside = [n for n in archive.namelist() if PurePosixPath(n).name == META]
    if not inside:
        raise ConfigError(f"path={path} is not a packed ESPnet model: no {META}.")
    # ESPnet reads the first one.
    source = f"{path}: {inside[0]}"
    meta = parse_yaml(archive.read(inside[0]).decode("utf-8"), source)
    for key in ("yaml_files", "files"):
        names = meta.get(key) if isinstance(meta, dict) else None
        good = isinstance(names, dict) and all(
            isinstance(part, str) for pair in names.items() for part in pair
        )
        if not good:
            raise ConfigError(f"{source} must have {key}, with names of files.")
        # Also what ESPnet does not write: it gives the name to whoever opens it.
        lost = [name for name in names.values() if name not in archive.namelist()]
        if lost:
            raise ConfigError(f"path={path} lacks {lost[0]}, which its {META} names.")
    return meta["yaml_files"]


def _check_configs(
    path: Path, archive: zipfile.ZipFile, yaml_files: dict[str, str]
) -> None:
    for name in yaml_files.values():
        text = archive.read(name).decode("utf-8")
        if not isinstance(parse_yaml(text, f"{path}: {name}"), dict):
            raise ConfigError(f"{path}: {name} must have keys and values.")
        if len(text) * len(archive.namelist()) > 10 * MOST_COMPARED:
            raise ConfigError(f"{path}: {name} is too long for a config.")
