"""Reading yaml, and training configs that only say in what they differ."""

from pathlib import Path

import yaml

from espnet_dynsize.core.errors import ConfigError

BASE = "base"


def read_yaml(path: Path):
    """What a yaml file holds.

    Raises:
        ConfigError: there is no such file, or it is not yaml.
    """
    if not path.is_file():
        raise ConfigError(f"{path} does not exist.")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a yaml file: {error}.") from error


def load_config(path: Path) -> dict:
    """Read a training config and the one that its `base` names, if any.

    `base` is a path relative to the config's own folder. Sections (`encoder_conf`) are
    merged key by key, one level deep, and a key of a section that is null is left out;
    all else replaces what the base says.

    Args:
        path: A yaml file.

    Raises:
        ConfigError: a file does not exist, holds no keys, or bases form a ring.
    """
    return _load(Path(path), ())


def _load(path: Path, above: tuple[Path, ...]) -> dict:
    real = path.resolve()  # a link to a recipe's config: its base lies there
    if real in above:
        raise ConfigError(f"config {path}: base={path} is the base of itself.")
    config = read_yaml(path)
    if not isinstance(config, dict):
        raise ConfigError(f"config {path} must have keys and values.")
    base = config.pop(BASE, None)
    if base is None:
        return config
    if not isinstance(base, str):
        raise ConfigError(
            f"config {path}: base={base} must be the path of a yaml file."
        )
    return _merged(_load(real.parent / base, (*above, real)), config)


def _merged(base: dict, changes: dict) -> dict:
    merged = dict(base)
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(base.get(key, {}), dict):
            # Null leaves a key out: options of one encoder are errors for another.
            section = {**base.get(key, {}), **value}
            merged[key] = {k: v for k, v in section.items() if v is not None}
        else:
            merged[key] = value
    return merged
