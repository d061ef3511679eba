"""Where a recipe trains: a short name for one set of training options.

asr.sh names a folder after every option, up to more characters than a file system
takes; here the name is the config's. asr.sh resumes or replaces whatever it finds in a
folder, so a folder remembers its options, and others are refused. Token lists and
statistics, which several models share, alike.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

import yaml

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.files import whole
from espnet_dynsize.core.yaml_base import read_config
from espnet_dynsize.recipe import asr_sh
from espnet_dynsize.recipe.options import Options

RECORD = "recipe.yaml"
# In a record, besides options
FRONT_END = "front-end"


class Model(NamedTuple):
    """What asr.sh trains: the prefix of its options, the stage, what it depends on."""

    prefix: str
    stage: int
    options: tuple[str, ...]


class Made(NamedTuple):
    """A folder that asr.sh fills.

    Attributes:
        folder: Where it is.
        files: Patterns; a file of one shows that it has been filled.
        given: The options that its files depend on.
        otherwise: What else a user with other options can do.
    """

    folder: Path
    files: tuple[str, ...]
    given: dict[str, str]
    otherwise: str


_DATA = (
    *("train_set", "valid_set", "dumpdir", "lang", "cleaner", "g2p", "nlsyms_txt"),
    *("token_type", "nbpe", "bpemode", "bpe_train_text"),
)
ASR = Model(
    "asr",
    asr_sh.TRAIN,
    (
        *("asr_config", "asr_args", "asr_task", "asr_stats_dir", *_DATA),
        *("feats_type", "fs", "min_wav_duration", "max_wav_duration"),
        *("speed_perturb_factors", "feats_normalize", "use_lightning"),
        *("pretrained_model", "ignore_init_mismatch"),
    ),
)
LM = Model(
    "lm",
    asr_sh.LM,
    ("lm_config", "lm_args", "lm_stats_dir", "lm_train_text", "lm_dev_text", *_DATA),
)
_SYMBOLS = ("oov", "blank", "sos_eos", "sot_asr")
_BPE = ("bpe_input_sentence_size", "bpe_nlsyms", "bpe_char_cover")
_CLEANING = ("cleaner", "g2p", "nlsyms_txt")
_AUDIO = (
    *("train_set", "valid_set", "dumpdir"),
    *("fs", "min_wav_duration", "max_wav_duration"),
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
            given = {name: options.get(name) for name in model.options}
            option = f"--{model.prefix}_tag"
            otherwise = (
                f"name this run with {option}, or continue that one with "
                f"--{model.prefix}_exp"
            )
            _claim(Made(folder, ("**/*.pth", "**/*.ckpt"), given, otherwise), options)
        options[f"{model.prefix}_exp"] = str(folder)


def claim_shared(options: Options, config: dict) -> None:
    """Let token lists and statistics remember what they were made of.

    asr.sh makes them anew in every run; a model that was trained with the old ones
    would go on with those of another text, or of other features.

    Args:
        options: Of the recipe.
        config: Of the training.

    Raises:
        ConfigError: they were made of something else.
    """
    if options.runs(asr_sh.TOKENS):
        _claim_tokens(options)
    kind = options.get("token_type")
    kind += options.get("nbpe") if kind == "bpe" else ""
    language = options.get("lang")
    name = kind if language == "noinfo" else f"{language}_{kind}"
    if options.runs(asr_sh.STATS):
        perturbed = "_sp" if options.get("speed_perturb_factors") else ""
        given = {name: options.get(name) for name in _AUDIO}
        given[FRONT_END] = _front_end(options, config)
        folder = f"asr_stats_{options.get('feats_type')}_{name}{perturbed}"
        _claim_stats(options, "asr", folder, given)
    if options.runs(asr_sh.LM_STATS):
        _claim_stats(options, "lm", f"lm_stats_{name}", _texts(options))


def _claim_tokens(options: Options) -> None:
    """The folder that asr.sh's stage 5 fills: it is named after few of its options."""
    kind, language = options.get("token_type"), options.get("lang")
    given = {name: options.get(name) for name in _SYMBOLS}
    folder = Path("data") / f"{language}_token_list".removeprefix("noinfo_")
    if kind == "bpe":
        folder /= f"bpe_{options.get('bpemode')}{options.get('nbpe')}"
        text = options.get("bpe_train_text") or _text(options, "train_set")
        given |= {name: options.get(name) for name in _BPE} | {"bpe_train_text": text}
    elif kind in ("char", "word"):
        folder /= kind
        given |= {name: options.get(name) for name in _CLEANING}
        given["lm_train_text"] = _texts(options)["lm_train_text"]
    else:
        return  # of a tokenizer that is not made here
    otherwise = (
        "give this run token lists of its own with --lang, after which asr.sh names "
        "them, or let it use these with --skip_stages 5"
    )
    _claim(Made(folder, ("tokens.txt",), given, otherwise), options)


def _claim_stats(
    options: Options, prefix: str, name: str, given: dict[str, str]
) -> None:
    option = f"{prefix}_stats_dir"
    if options.get(option):
        return  # the user's decision
    folder = Path(options.get("expdir")) / name
    otherwise = f"give this run statistics of its own with --{option}"
    _claim(Made(folder, ("train/*_shape*",), given, otherwise), options)


def _front_end(options: Options, config: dict) -> str:
    """The options of the features whose mean and variance are collected."""
    keys = ("frontend", "frontend_conf")
    given = {key: config[key] for key in keys if config.get(key)}
    # What stands here counts more than the config; asr.sh splits it at spaces, too.
    more = re.findall(r"--frontend(?:_conf)?[ =]+\S+", options.get("asr_args"))
    return " ".join([json.dumps(given, sort_keys=True, default=str), *more])


def _texts(options: Options) -> dict[str, str]:
    """What a language model is trained and validated on."""
    sets = {"lm_train_text": "train_set", "lm_dev_text": "valid_set"}
    return {
        name: options.get(name) or _text(options, which) for name, which in sets.items()
    }


def _text(options: Options, which: str) -> str:
    """The transcripts of a set, which asr.sh takes where no text is given."""
    return str(options.data_folder() / "org" / options.get(which) / "text")


def _claim(made: Made, options: Options) -> None:
    recorded = _recorded(made)
    if any(next(made.folder.glob(pattern), None) for pattern in made.files):
        _check_same(made, recorded, options)
    made.folder.mkdir(parents=True, exist_ok=True)
    with whole(made.folder / RECORD) as partial:
        partial.write_text(yaml.safe_dump(made.given), encoding="utf-8")


def _recorded(made: Made) -> dict | None:
    """What an earlier run has recorded, None where there is no record."""
    path = made.folder / RECORD
    if not path.exists():
        return None
    recorded = read_config(path)
    if not recorded.keys() <= made.given.keys():
        raise ConfigError(
            f"{path} was not written by espnet-dynsize: remove or rename it."
        )
    return recorded


def _check_same(made: Made, recorded: dict | None, options: Options) -> None:
    if recorded is None:
        raise ConfigError(
            f"{made.folder} has files, but no {RECORD} that says with which options "
            f"they were made: {made.otherwise}, or remove the folder."
        )
    for name, value in made.given.items():
        if name == FRONT_END and name not in recorded:
            continue  # by version 0.1
        # What was not given then had its default.
        before = recorded.get(name) or options.defaults.get(name, "")
        if value != before:
            option = name if name == FRONT_END else f"--{name}"
            raise ConfigError(
                f"{option} '{value}' must be '{before}', with which {made.folder} was "
                f"made: {made.otherwise}, or remove the folder."
            )
