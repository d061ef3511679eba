"""How a packed model was scored: its search, in `decoding.yaml` beside its config."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import yaml

from espnet_dynsize.core.schema import (
    NotNegative,
    Range,
    annotations,
    check_options,
    check_value,
)
from espnet_dynsize.core.yaml_base import read_config

NAME = "decoding.yaml"
Weight = Annotated[float, Range(0, 1)]
Beam = Annotated[int, Range(1, 1000)]  # wider ones only fill the memory


def _search(
    beam_size: Beam = 20,
    ctc_weight: Weight = 0.5,
    lm_weight: NotNegative = 1.0,
    ngram_weight: NotNegative = 0.9,
    penalty: float = 0.0,
    maxlenratio: float = 0.0,
    minlenratio: float = 0.0,
    normalize_length: bool = False,
    transducer_conf: dict | None = None,
) -> None:
    """What a model may say of its search: options of ESPnet's `Speech2Text`."""


def of_search(decoding: Mapping[str, object]) -> dict:
    """Those of ESPnet's decoding options that a packed model keeps.

    Args:
        decoding: A decoding config's keys; values may be text of a command line.
    """
    kept = [key for key in inspect.signature(_search).parameters if key in decoding]
    values = [decoding[key] for key in kept]
    return {
        key: yaml.safe_load(value) if isinstance(value, str) else value
        for key, value in zip(kept, values)
    }


def check_search(options: Mapping[str, object]) -> None:
    """Refuse options of the search with which it finds nothing, or anything.

    Raises:
        ConfigError: one is out of range.
    """
    for key, annotation in annotations(_search).items():
        if options.get(key) is not None and key in options:
            check_value(key, options[key], annotation)


def read(folder: Path) -> dict:
    """The options in a folder's `decoding.yaml`; empty where there is none.

    Raises:
        ConfigError: they are not options of the search.
    """
    path = folder / NAME
    if not path.is_file():
        return {}
    options = read_config(path)
    check_options(str(path), options, "ESPnet's search", _search)
    return options
