"""Reading a trained ESPnet experiment folder."""

import argparse
from pathlib import Path

import humanfriendly
import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.torch_utils.safe_torch_load import safe_torch_load
from espnet2.utils.yaml_no_alias_safe_dump import yaml_no_alias_safe_dump

from espnet_dynsize.control.selectors import opening
from espnet_dynsize.core.checkpoint import misfit, model_states
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.yaml_base import read_yaml
from espnet_dynsize.train.task import DynSizeASRTask


def read_config(asr_exp: Path) -> dict:
    """Read `asr_exp/config.yaml`.

    Raises:
        ConfigError: there is none, or it is not a training config.
    """
    path = Path(asr_exp) / "config.yaml"
    if not path.is_file():
        raise ConfigError(
            f"asr_exp={asr_exp} has no config.yaml: give the folder of a trained model."
        )
    config = read_yaml(path)
    if not isinstance(config, dict):
        raise ConfigError(f"{path} is not a training config: it must have keys.")
    return config


def write_config(path: Path, config: dict) -> None:
    """Write it as ESPnet writes its own, so that a diff shows what has changed."""
    text = yaml_no_alias_safe_dump(config, indent=4, sort_keys=False)
    path.write_text(text, encoding="utf-8")


def read_states(asr_exp: Path, model_file: str) -> dict:
    """Read the checkpoint `asr_exp/model_file`.

    Raises:
        ConfigError: there is none.
    """
    path = Path(asr_exp) / model_file
    if not path.is_file():
        names = sorted(p.name for p in Path(asr_exp).glob("*.pth"))
        raise ConfigError(f"model_file={path} does not exist; there are {names}.")
    return model_states(safe_torch_load(path, map_location="cpu"))


def find_checkpoint(folder: Path, model_file: str) -> str:
    """`model_file`, or where it is empty the only averaged checkpoint there is.

    Raises:
        ConfigError: there is none, or more than one.
    """
    if model_file:
        return model_file
    # ESPnet links the short name to the one with the number of checkpoints.
    averages = sorted(Path(folder).glob("*.ave*.pth"), reverse=True)
    names = sorted({path.resolve(): path.name for path in averages}.values())
    if len(names) != 1:
        raise ConfigError(
            f"{folder} must hold one *.ave*.pth, but there are {names}: name one with "
            "model_file."
        )
    return names[0]


def sampling_rate(config: dict) -> int:
    """Samples a second of the audio that a model was trained with."""
    rate = (config.get("frontend_conf") or {}).get("fs", 16000)
    return humanfriendly.parse_size(rate) if isinstance(rate, str) else rate


def build_model(config: dict) -> ESPnetASRModel:
    """Build the (untrained) model that a config describes, in evaluation mode.

    No code that the config names is imported.
    """
    with opening():
        return DynSizeASRTask.build_model(argparse.Namespace(**config)).eval()


def load_states(model: torch.nn.Module, states: dict, source: str) -> None:
    """Load a checkpoint strictly.

    Raises:
        ConfigError: names or shapes differ.
    """
    wrong = misfit(model, states)
    if wrong is not None:
        raise ConfigError(f"{source} does not fit its config.yaml: {wrong}.")
    model.load_state_dict(states)


def load_model(asr_exp: Path, model_file: str) -> tuple[ESPnetASRModel, dict]:
    """Build and load `asr_exp/model_file`; returns the model and its config.

    Raises:
        ConfigError: the folder is not a trained model, or the checkpoint does not fit.
    """
    config = read_config(asr_exp)
    states = read_states(asr_exp, model_file)
    model = build_model(config)
    load_states(model, states, f"model_file={Path(asr_exp) / model_file}")
    return model, config
