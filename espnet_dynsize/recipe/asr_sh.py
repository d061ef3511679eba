"""ESPnet's `asr.sh`: its stages, its options, and a call of it."""

import difflib
import re
from pathlib import Path

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.process import run_child
from espnet_dynsize.recipe.options import DEFAULTS, Options

DATA, SPEED, FORMAT, TOKENS, LM_STATS, LM, NGRAM, STATS = 1, 2, 3, 5, 6, 7, 9, 10
TRAIN, DECODE, SCORE, PACK, UPLOAD = 11, 12, 13, 14, 15
# `name=default  # what it is`, from the first column on
_DEFAULT = re.compile(r"^([a-z]\w*)=(?!\$\()\"?([^\s\"$#]*)", re.M)
_BOOLEANS = ("true", "false")


class StageError(ConfigError):
    """`asr.sh` failed; it has said why."""


def read_defaults(script: Path) -> dict[str, str]:
    """The options of an `asr.sh` and their defaults, as far as these are plain words.

    Returns:
        Empty for a script that does not read options as ESPnet's does.
    """
    text = script.read_text(encoding="utf-8")
    head, reads_options, _ = text.partition("\n. utils/parse_options.sh")
    return dict(_DEFAULT.findall(head)) if reads_options else {}


def check_names(options: Options, script: Path) -> None:
    """Let `options` know `asr.sh`'s defaults, and refuse what `asr.sh` would.

    Raises:
        ConfigError: there is no such option, or it is neither true nor false.
    """
    known = read_defaults(script)
    options.defaults = {**DEFAULTS, **known}
    for name, value in options.items() if known else ():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f": did you mean --{close[0]}?" if close else "."
            raise ConfigError(
                f"--{name} {value} must be an option of {script.resolve()}{hint}"
            )
        if known[name] in _BOOLEANS and value not in _BOOLEANS:
            raise ConfigError(f"--{name} {value} must be true or false.")


def run_asr_sh(options: Options, **changes: object) -> None:
    """Run `asr.sh` of the working directory, with `changes` to its options.

    Raises:
        StageError: it failed.
    """
    code = run_child(["./asr.sh", *options.arguments(**changes)])
    if code != 0:
        raise StageError(f"asr.sh failed with exit code {code}, see above.")
