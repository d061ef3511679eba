"""Reading yaml, and training configs that only say in what they differ."""

from collections import Counter
from pathlib import Path

import yaml

from espnet_dynsize.core.errors import ConfigError, check

BASE = "base"
# More than any config has (tokens are most of it), and read in seconds
MOST_VALUES = 300_000


def read_yaml(path: Path):
    """What a yaml file holds.

    Raises:
        ConfigError: there is no such file, it is not yaml, names a key twice, or holds
            more than `MOST_VALUES` values (aliases count as what they stand for).
    """
    if not path.is_file():
        raise ConfigError(f"{path} does not exist.")
    try:
        return parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a yaml file: {error}.") from error


def read_config(path: Path) -> dict:
    """The keys of a yaml file.

    Raises:
        ConfigError: it cannot be read, or has no keys; a section (`encoder_conf`) has
            none; one is no text.
    """
    config = read_yaml(path)
    if not isinstance(config, dict):
        raise ConfigError(f"config {path} must have keys and values.")
    _check_names(config, str(path))
    for key, section in config.items():
        # ESPnet writes null for sections that are not used.
        if key.endswith("_conf") and section is not None:
            good = isinstance(section, dict)
            check(good, f"{path}: {key}", section, "a section of keys")
            _check_names(section, f"{path}: {key}")
    return config


def _check_names(section: dict, source: str) -> None:
    """Options are text; yaml reads 1, null, on and no as something else."""
    for key in section:
        if not isinstance(key, str):
            raise ConfigError(f"{source}: the key {key} must be text.")


def parse_yaml(text: str, source: str):
    """What yaml text holds; see `read_yaml`.

    Args:
        text: The text.
        source: Where it is from, for messages.

    Raises:
        ConfigError: see `read_yaml`.
    """
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        # Nine levels of ten aliases each are a billion values to whoever walks them.
        if _count(node, {}, source) > MOST_VALUES:
            raise ConfigError(f"{source} must have at most {MOST_VALUES} values.")
        return loader.construct_document(node)
    except RecursionError as error:
        raise ConfigError(f"{source} is nested too deeply.") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        if isinstance(error, ConfigError):
            raise
        why = " ".join(str(error).split())
        raise ConfigError(f"{source} is not a yaml file: {why}.") from error


def _count(node: yaml.Node, counted: dict[int, int | None], source: str) -> int:
    """Values below a node; each alias counts anew, and may not contain itself."""
    if id(node) not in counted:
        counted[id(node)] = None  # begun
        children = []
        if isinstance(node, yaml.SequenceNode):
            children = node.value
        elif isinstance(node, yaml.MappingNode):
            names = [key.value for key, _ in node.value if _is_name(key)]
            twice = [n for n, times in Counter(names).items() if times > 1]
            if twice:
                raise ConfigError(f"{source} has the key {twice[0]} twice.")
            children = [child for pair in node.value for child in pair]
        total = sum(_count(child, counted, source) for child in children)
        counted[id(node)] = 1 + total
    size = counted[id(node)]
    if size is None:
        raise ConfigError(f"{source} has an alias that contains itself.")
    return size


def _is_name(key: yaml.Node) -> bool:
    merge = "tag:yaml.org,2002:merge"  # `<<`
    return isinstance(key, yaml.ScalarNode) and key.tag != merge


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
    config = read_config(path)
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
