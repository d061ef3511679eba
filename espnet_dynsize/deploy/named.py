"""The files that a model's config names: whether they are what they should be."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import sentencepiece

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.located import BPEMODEL, STATISTICS, file_options

# Bytes: three numbers for each of a frame's values are far less
MOST_STATISTICS = 10_000_000


def check_named(config: Mapping, *keys: str) -> None:
    """Refuse a tokenizer that is not there, and files that are of another kind.

    Args:
        config: A model's, with the files that it names found (see `locate`).
        *keys: Of `FILES`: those that are looked into.

    Raises:
        ConfigError: there is one.
    """
    is_bpe = config.get("token_type") == "bpe"
    for key, section, name in file_options(config):
        path = Path(section[name])
        if path.exists():
            # Another tokenizer's may be anything, a folder too.
            if key in keys and (key != BPEMODEL or is_bpe):
                _check_kind(key, path)
        # With other types of tokens, it may be the name of a tokenizer.
        elif key == BPEMODEL and is_bpe:
            raise ConfigError(
                f"{key}={path} does not exist, without which token_type: bpe gives no "
                "text."
            )


def _check_kind(key: str, path: Path) -> None:
    if not path.is_file():  # of which sentencepiece would end the process
        raise ConfigError(f"{key}={path} must be a file.")
    try:
        if key == STATISTICS:
            _check_statistics(path)
        elif key == BPEMODEL:
            sentencepiece.SentencePieceProcessor(model_file=str(path))
        else:
            path.read_text(encoding="utf-8")
    except ConfigError:
        raise
    except _WRONG as error:
        raise ConfigError(f"{key}={path} is not a file of that kind.") from error


_WRONG = (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile)


def _check_statistics(path: Path) -> None:
    """Refuse what is no array, or needs more memory than one of statistics."""
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    if size > MOST_STATISTICS:
        raise ConfigError(
            f"{STATISTICS}={path} must be of at most {MOST_STATISTICS / 1e6:.0f} MB; "
            f"it unpacks to {size / 1e6:.0f} MB."
        )
    # Mapped: of a plain array, it is said beforehand how long it is.
    np.load(path, mmap_mode="r", allow_pickle=False)
