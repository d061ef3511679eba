"""ESPnet's `asr.sh`, and what its options say to a recipe's family."""

import subprocess

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.recipe.options import Options

TRAIN, DECODE, SCORE, PACK, UPLOAD = 11, 12, 13, 14, 15


class StageError(ConfigError):
    """`asr.sh` failed; it has said why."""


def run_asr_sh(options: Options, **changes: object) -> None:
    """Run `asr.sh` of the working directory, with `changes` to its options.

    Raises:
        StageError: it failed.
    """
    done = subprocess.run(["./asr.sh", *options.arguments(**changes)])
    if done.returncode != 0:
        raise StageError(f"asr.sh failed with exit code {done.returncode}, see above.")
