"""How a packed model was scored: its search, in `decoding.yaml` beside its config."""

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from espnet_dynsize.core.errors import check
from espnet_dynsize.core.keys import is_transducer, of_transducer_task
from espnet_dynsize.core.schema import (
    Count,
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

Window = Annotated[int, Range(1, 60_000)]  # milliseconds
Frames = Annotated[int, Range(0, 10_000)]

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
    beam_search_config: dict | None = None,
    decoding_window: Window = 640,
    left_context: Frames = 32,
) -> None:
    """What a model may say of its search: options of ESPnet's `Speech2Text`.

    The last three are of the task `asr_transducer`.
    """


def _transducer_search(
    search_type: Literal["default", "tsd", "alsd", "maes"] = "default",
    max_sym_exp: Annotated[int, Range(2)] = 3,
    u_max: Annotated[int, Range(0)] = 50,
    nstep: Count = 2,
    expansion_gamma: float = 2.3,
    expansion_beta: Annotated[int, Range(0)] = 2,
    score_norm: bool = False,
) -> None:
    """What `beam_search_config` may hold, as in ESPnet's `BeamSearchTransducer`."""


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
    config = options.get("beam_search_config") or {}
    check_options("beam_search_config", config, "ESPnet's search", _transducer_search)


def default_search(config: Mapping) -> dict:
    """What of ESPnet's default search does not go with a model.

    Args:
        config: The model's.
    """
    if not config.get("decoder"):
        return {"ctc_weight": 1.0, "beam_size": 1}
    if of_transducer_task(config):
        # Of the tokens without the blank
        return {"beam_size": min(TRANSDUCER_BEAM, max(_most_tokens(config) - 1, 1))}
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
    if of_transducer_task(config):
        _check_transducer(options, config)
        return
    if is_transducer(config):
        return
    weight = options.get("ctc_weight")
    good = not weight or has_ctc(config)
    check(good, "ctc_weight", weight, "0: the model has no CTC")
    beam, most = options["beam_size"], _most_tokens(config)
    check(beam <= most, "beam_size", beam, f"at most {most}, the number of tokens")


def _check_transducer(options: Mapping[str, object], config: Mapping) -> None:
    """A search that the task `asr_transducer` cannot do with so few tokens."""
    beam, most = options["beam_size"], _most_tokens(config) - 1
    given = options.get("beam_search_config") or {}
    allowed = f"at most {most}, the number of tokens without the blank"
    if given.get("search_type") == "maes":
        most -= given.get("expansion_beta", 2) - 1
        allowed = f"at most {most}: with expansion_beta, there must be as many tokens"
    check(beam <= most, "beam_size", beam, allowed)


def check_streaming_search(options: Mapping[str, object]) -> None:
    """Refuse a search that hears only the last part of a stream.

    Args:
        options: Those of the task `asr_transducer`.

    Raises:
        ConfigError: it is one.
    """
    kind = (options.get("beam_search_config") or {}).get("search_type", "default")
    allowed = "another to stream: it forgets what was before"
    check(kind != "alsd", "beam_search_config: search_type", kind, allowed)


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
