"""Reading a trained ESPnet experiment folder."""

import argparse
import math
import re
from pathlib import Path

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.utils.yaml_no_alias_safe_dump import yaml_no_alias_safe_dump

from espnet_dynsize.control.selectors import opening
from espnet_dynsize.core import yaml_base
from espnet_dynsize.core.bounded import bounded
from espnet_dynsize.core.checkpoint import misfit, read_states
from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.core.keys import check_complete, of_transducer_task
from espnet_dynsize.core.located import STATISTICS, locate
from espnet_dynsize.core.rate import hertz
from espnet_dynsize.deploy.named import check_named
from espnet_dynsize.train.family_task import FamilyTask
from espnet_dynsize.train.task import DynSizeASRTask
from espnet_dynsize.train.transducer_task import DynSizeASRTransducerTask

CONFIG = "config.yaml"
_AVERAGE = re.compile(r"(?P<criterion>.+)\.ave(_(?P<number>\d+)best)?\.pth")


def read_config(asr_exp: Path) -> dict:
    """Read `asr_exp/config.yaml`.

    Raises:
        ConfigError: there is none, or it is not a training config.
    """
    path = Path(asr_exp) / CONFIG
    _check_folder(asr_exp)
    config = yaml_base.read_config(path)
    check_complete(config, str(path))
    return config


def _check_folder(asr_exp: Path) -> None:
    if not (Path(asr_exp) / CONFIG).is_file():
        raise ConfigError(
            f"asr_exp={asr_exp} has no {CONFIG}: give the folder of a trained model."
        )


def config_text(config: dict) -> str:
    """A config as ESPnet writes its own, so that a diff shows what has changed."""
    return yaml_no_alias_safe_dump(config, indent=4, sort_keys=False)


def find_checkpoint(folder: Path, model_file: str = "") -> str:
    """Name of a checkpoint in a model's folder.

    Args:
        folder: Folder of a trained model.
        model_file: Its name, or a path that leads into the folder. Empty: the averaged
            one, of the first of `best_model_criterion` where there are more.

    Raises:
        ConfigError: there is none, or it is not in the folder.
    """
    folder = Path(folder)
    _check_folder(folder)
    if model_file:
        return _name_in(folder, Path(model_file))
    averages = _averages(folder)
    if len(averages) == 1:
        return next(iter(averages.values()))
    criteria = read_config(folder).get("best_model_criterion") or []
    for criterion in criteria if isinstance(criteria, list) else []:
        if isinstance(criterion, list | tuple) and len(criterion) >= 2:
            name = averages.get(f"{criterion[0]}.{criterion[1]}")
            if name is not None:
                return name
    names = sorted(path.name for path in folder.glob("*.pth"))
    raise ConfigError(
        f"model_file: {folder} must have one *.ave*.pth, or model_file must name one "
        f"of {names}."
    )


def _averages(folder: Path) -> dict[str, str]:
    """Criterion → the average over the most checkpoints, of all that there are."""
    best: dict[str, tuple[float, str]] = {}
    for path in folder.glob("*.ave*.pth"):
        match = _AVERAGE.fullmatch(path.name)
        if match is not None:
            # The name without a number is ESPnet2's link to that with the largest.
            number = float(match["number"] or math.inf)
            found = (number, path.name)
            best[match["criterion"]] = max(best.get(match["criterion"], found), found)
    return {criterion: name for criterion, (_, name) in best.items()}


def _name_in(folder: Path, path: Path) -> str:
    """The name of a file in the folder, given by name or by path."""
    # As `ls` would find it, and as if it were named within the folder
    for given in (folder / path, path):
        # The file itself may be a link: ESPnet's averages are.
        if given.is_file() and given.parent.resolve() == folder.resolve():
            return given.name
    names = sorted(p.name for p in folder.glob("*.pth"))
    raise ConfigError(f"model_file={path} must be a file in {folder}: {names}.")


def sampling_rate(config: dict) -> int:
    """Samples a second of the audio that a model was trained with.

    Raises:
        ConfigError: the config names none.
    """
    given = (config.get("frontend_conf") or {}).get("fs", 16000)
    try:
        rate = hertz(given)
    except ConfigError:
        rate = None
    good = type(rate) is int and rate > 0
    check(good, "frontend_conf: fs", given, "a number of samples a second")
    return rate


def build_model(config: dict) -> ESPnetASRModel:
    """Build the (untrained) model that a config describes, in evaluation mode.

    No code that the config names is imported.
    """
    with opening():
        return task_of(config).build_model(argparse.Namespace(**config)).eval()


def task_of(config: dict) -> type[FamilyTask]:
    """The task that a config is for."""
    return DynSizeASRTransducerTask if of_transducer_task(config) else DynSizeASRTask


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
    """Build and load `asr_exp/model_file`.

    Returns:
        The model, and its config with the files that it names found (see `locate`).

    Raises:
        ConfigError: the folder is not a trained model, or the checkpoint does not fit.
    """
    path = Path(asr_exp) / find_checkpoint(asr_exp, model_file)
    return load_files(read_config(asr_exp), asr_exp, path, "model_file")


def load_files(
    config: dict, folder: Path, checkpoint: Path, key: str
) -> tuple[ESPnetASRModel, dict]:
    """Build and load a model whose config has been read.

    Args:
        config: The model's.
        folder: Where its config.yaml lies.
        checkpoint: Its checkpoint.
        key: What names the checkpoint, for messages.

    Returns:
        See `load_model`.

    Raises:
        ConfigError: a file is missing, or the checkpoint does not fit.
    """
    config = locate(config, folder)
    check_named(config, STATISTICS)
    states = read_states(checkpoint)
    with bounded(config, states):
        # ESPnet may no longer know how it was initialised; all of it is loaded.
        model = build_model({**config, "init": None})
    load_states(model, states, f"{key}={checkpoint}")
    return model, config
