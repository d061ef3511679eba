"""How a packed model was scored: its search, in `decoding.yaml` beside its config."""

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from espnet_dynsize.core.errors import check
from espnet_dynsize.core.keys import is_transducer, of_transducer_task
from espnet_dynsize.core.schema import (
    NotNegative,
    Range,
    annotations,
    check_options,
    check_value,
    is_number_as_text,
)
from espnet_dynsize.core.yaml_base import parse_yaml, read_config

NAME = "decoding.yaml"
Weight = Annotated[float, Range(0, 1)]
Beam = Annotated[int, Range(1, 1000)]  # wider ones only fill the memory

# Tokens a frame of the encoder; below 0, tokens. More only takes time, and where no
# text is as long as the least, ESPnet searches again for every tenth.
Most = Annotated[float, Range(-10_000, 10)]
Least = Annotated[float, Range(-10_000, 1)]


def _search(
    beam_size: Beam = 20,
    ctc_weight: Weight = 0.5,
    lm_weight: NotNegative = 1.0,
    ngram_weight: NotNegative = 0.9,
    penalty: float = 0.0,
    maxlenratio: Most = 0.0,
    minlenratio: Least = 0.0,
    normalize_length: bool = False,
    transducer_conf: dict | None = None,
) -> None:
    """What a model may say of its search: options of ESPnet's `Speech2Text`."""


# ESPnet's defaults
DEFAULTS = {key: p.default for key, p in inspect.signature(_search).parameters.items()}
# In the task `asr_transducer`
TRANSDUCER_BEAM = 5


def of_search(decoding: Mapping[str, object]) -> dict:
    """Those of ESPnet's decoding options that a packed model keeps.

    Args:
        decoding: A decoding config's keys; values may be text of a command line.

    Raises:
        ConfigError: a value is not of a command line.
    """
    kept = [key for key in DEFAULTS if key in decoding]
    return {key: _value(key, decoding[key]) for key in kept}


def _value(key: str, value: object) -> object:
    """A value as yaml has it, of one that may be text of a command line."""
    value = parse_yaml(value, key) if isinstance(value, str) else value
    # To ESPnet's command line 1e-3 is a number, to yaml it is text.
    return float(value) if is_number_as_text(value) else value


def check_search(options: Mapping[str, object]) -> None:
    """Refuse options of the search with which it finds nothing, or anything.

    Raises:
        ConfigError: one is out of range.
    """
    for key, annotation in annotations(_search).items():
        if options.get(key) is not None and key in options:
            check_value(key, options[key], annotation)


def default_search(config: Mapping) -> dict:
    """What of ESPnet's default search does not go with a model.

    Args:
        config: The model's.
    """
    if not config.get("decoder"):
        return {"ctc_weight": 1.0, "beam_size": 1}
    if of_transducer_task(config):
        return {"beam_size": min(TRANSDUCER_BEAM, _most_tokens(config))}
    search = {} if has_ctc(config) else {"ctc_weight": 0.0}
    if config["decoder"] != "transducer":
        search["beam_size"] = min(DEFAULTS["beam_size"], _most_tokens(config))
    return search


def check_fits(options: Mapping[str, object], config: Mapping) -> None:
    """Refuse a search that the model cannot do; see `check_search`.

    Args:
        options: All of the search's, those of `default_search` among them.
        config: The model's.

    Raises:
        ConfigError: it asks for a CTC that is not there, or for more tokens than there
            are.
    """
    if is_transducer(config) and not of_transducer_task(config):
        return
    if not of_transducer_task(config):
        weight = options.get("ctc_weight")
        good = not weight or has_ctc(config)
        check(good, "ctc_weight", weight, "0: the model has no CTC")
    beam, most = options["beam_size"], _most_tokens(config)
    check(beam <= most, "beam_size", beam, f"at most {most}, the number of tokens")


def has_ctc(config: Mapping) -> bool:
    """Whether the model that a training config describes has a CTC output."""
    return (config.get("model_conf") or {}).get("ctc_weight", 0.5) != 0


def _most_tokens(config: Mapping) -> int:
    tokens = config.get("token_list")
    return len(tokens) if isinstance(tokens, list | tuple) else sys.maxsize


def read(folder: Path) -> dict:
    """The options in a folder's `decoding.yaml`; empty where there is none.

    Raises:
        ConfigError: they are not options of the search.
    """
    path = folder / NAME
    if not path.is_file():
        return {}
    options = read_config(path)
    check_kept(str(path), options)
    return options


def check_kept(source: str, options: Mapping[str, object]) -> None:
    """Refuse what a packed model may not say of its search.

    Args:
        source: Where it is from, for messages.
        options: What it says.

    Raises:
        ConfigError: they are not options of the search, or out of range.
    """
    check_options(source, options, "ESPnet's search", _search)
