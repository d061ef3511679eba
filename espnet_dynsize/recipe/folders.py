"""Where a recipe trains: a short name for one set of training options.

asr.sh names a folder after every option, up to more characters than a file system
takes; here the name is the config's. asr.sh resumes whatever it finds in the folder, so
a folder remembers its options, and others are refused.
"""

from pathlib import Path
from typing import NamedTuple

import yaml

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.yaml_base import read_yaml
from espnet_dynsize.recipe.options import Options

RECORD = "recipe.yaml"


class Model(NamedTuple):
    """What asr.sh trains: the prefix of its options, the stage, what it depends on."""

    prefix: str
    stage: int
    options: tuple[str, ...]


_DATA = (
    *("train_set", "valid_set", "dumpdir", "lang", "cleaner", "g2p", "nlsyms_txt"),
    *("token_type", "nbpe", "bpemode", "bpe_train_text"),
)
ASR = Model(
    "asr",
    11,
    (
        *("asr_config", "asr_args", "asr_task", "asr_stats_dir", *_DATA),
        *("feats_type", "fs", "min_wav_duration", "max_wav_duration"),
        *("speed_perturb_factors", "feats_normalize", "use_lightning"),
        *("pretrained_model", "ignore_init_mismatch"),
    ),
)
LM = Model(
    "lm",
    7,
    ("lm_config", "lm_args", "lm_stats_dir", "lm_train_text", "lm_dev_text", *_DATA),
)


def name_folders(options: Options) -> None:
    """Set `asr_exp` and, where a language model is used, `lm_exp`.

    A folder or tag that the user gives stays: sharing it is then their decision.

    Raises:
        ConfigError: the folder has a model that was trained with other options.
    """
    for model in (ASR, LM) if options.uses_lm() else (ASR,):
        if options.get(f"{model.prefix}_exp"):
            continue
        tag = options.get(f"{model.prefix}_tag")
        config = options.get(f"{model.prefix}_config") or "train"
        name = f"{model.prefix}_{tag or Path(config).stem}"
        folder = Path(options.get("expdir")) / name
        if not tag and options.runs(model.stage):
            _claim(folder, model, options)
        options[f"{model.prefix}_exp"] = str(folder)


def _claim(folder: Path, model: Model, options: Options) -> None:
    given = {name: options.get(name) for name in model.options}
    if any(path.suffix in (".pth", ".ckpt") for path in folder.rglob("*")):
        _check_same(folder, model, given)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).write_text(yaml.safe_dump(given), encoding="utf-8")


def _check_same(folder: Path, model: Model, given: dict[str, str]) -> None:
    path, tag = folder / RECORD, f"--{model.prefix}_tag"
    if not path.is_file():
        raise ConfigError(
            f"{folder} has a model, but no {RECORD} that says how it was trained: name "
            f"this run with {tag}, or continue that one with --{model.prefix}_exp."
        )
    recorded = read_yaml(path)
    for name, value in given.items():
        if recorded.get(name, "") != value:
            raise ConfigError(
                f"--{name} '{value}' must be '{recorded.get(name, '')}', with which "
                f"{folder} was trained: name this run with {tag}, or remove the folder."
            )
