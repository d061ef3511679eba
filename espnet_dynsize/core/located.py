"""The files that a model's config names, wherever a command is started."""

import copy
from collections.abc import Iterator
from pathlib import Path

from espnet_dynsize.core.errors import ConfigError

# Keys of a config that name files; dots go into sections
STATISTICS = "normalize_conf.stats_file"
NEEDED = (STATISTICS, "token_list")
BPEMODEL = "bpemodel"
FILES = (*NEEDED, BPEMODEL, "non_linguistic_symbols")


def file_options(config: dict) -> Iterator[tuple[str, dict, str]]:
    """Key of `FILES`, section that holds it and its name there, where it is set."""
    for key in FILES:
        *sections, name = key.split(".")
        section = config
        for part in sections:
            section = section.get(part) or {}
        if isinstance(section, dict) and isinstance(section.get(name), str):
            yield key, section, name


def locate(config: dict, folder: Path) -> dict:
    """A copy of a model's config whose files are found.

    ESPnet writes paths relative to the recipe, as it trains there: they are looked for
    in the model's folder and in those above it, where it lies and as it was named (a
    recipe's `exp` may be a link to another disk), then from here.

    Args:
        config: A model's config.
        folder: Where its config.yaml lies.

    Raises:
        ConfigError: one that the model cannot be built without is not there.
    """
    located = copy.deepcopy(config)
    folder = Path(folder).absolute()
    lies = folder.resolve()
    above = dict.fromkeys((lies, *lies.parents, folder, *folder.parents))
    for key, section, name in file_options(located):
        given = Path(section[name])
        # Where the model lies first: another recipe may have files of the same names.
        places = [*(place / given for place in above), given]
        found = next((str(place) for place in places if place.is_file()), None)
        if found is None and key in NEEDED:
            raise ConfigError(
                f"{folder / 'config.yaml'} names the file {key}={given}, which exists "
                "neither from here nor from there."
            )
        # Others may be names of something, such as a tokenizer.
        section[name] = found or section[name]
    return located


def as_named(config: dict, original: dict) -> dict:
    """A copy of `config` that names its files as `original` does."""
    named = copy.deepcopy(config)
    names = {key: section[name] for key, section, name in file_options(original)}
    for key, section, name in file_options(named):
        section[name] = names.get(key, section[name])
    return named
