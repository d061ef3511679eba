"""A language model that goes with an ASR model."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from espnet2.tasks.lm import LMTask

from espnet_dynsize.control.selectors import opening
from espnet_dynsize.core.bounded import bounded
from espnet_dynsize.core.checkpoint import misfit, read_states
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.yaml_base import read_config
from espnet_dynsize.deploy.audio import errors_with

# Options of ESPnet's `Speech2Text` that name its files
CONFIG, CHECKPOINT = "lm_train_config", "lm_file"


def check_language_model(files: Mapping[str, object], asr_config: Mapping) -> None:
    """Refuse a language model with which ESPnet would find nonsense.

    ESPnet loads of a checkpoint what fits and leaves the rest random, and takes a
    language model's outputs for the ASR model's tokens in their order.

    Args:
        files: `CONFIG` and `CHECKPOINT`; neither where there is no language model.
        asr_config: The ASR model's, with the files that it names found.

    Raises:
        ConfigError: one of the files is missing or cannot be used, the checkpoint does
            not fit its config, or the tokens are others.
    """
    given = {key: files[key] for key in (CONFIG, CHECKPOINT) if files.get(key)}
    if not given:
        return
    if len(given) == 1:
        ((key, path),) = given.items()
        raise ConfigError(f"{key}={path}: {CONFIG} and {CHECKPOINT} must go together.")
    path, checkpoint = Path(files[CONFIG]), Path(files[CHECKPOINT])
    config, states = read_config(path), read_states(checkpoint)
    _check_tokens(path, config.get("token_list"), _tokens(asr_config))
    with errors_with(path), opening(), bounded(config, states):
        model = LMTask.build_model(argparse.Namespace(**config))
    wrong = misfit(model, states)
    if wrong is not None:
        raise ConfigError(f"{CHECKPOINT}={checkpoint} does not fit {path}: {wrong}.")


def _tokens(asr_config: Mapping) -> list[str]:
    tokens = asr_config["token_list"]
    if isinstance(tokens, str):  # as ESPnet reads it
        with open(tokens, encoding="utf-8") as lines:
            return [line.rstrip() for line in lines]
    return list(tokens)


def _check_tokens(path: Path, tokens: object, expected: list[str]) -> None:
    if not isinstance(tokens, list):
        raise ConfigError(f"{path}: token_list={tokens} must be a list of tokens.")
    if len(tokens) != len(expected):
        raise ConfigError(
            f"{path}: token_list must be the ASR model's: it has {len(tokens)} tokens, "
            f"not {len(expected)}."
        )
    for position, (token, other) in enumerate(zip(tokens, expected)):
        if token != other:
            raise ConfigError(
                f"{path}: token_list must be the ASR model's: token {position} is "
                f"{token!r}, not {other!r}."
            )
