"""Options in the way of ESPnet's `asr.sh`: `--name value`, the last one counts."""

from collections.abc import Sequence
from pathlib import Path

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.yaml_base import load_config

# What asr.sh takes where an option is not given
DEFAULTS = {
    "stage": "1",
    "stop_stage": "10000",
    "skip_eval": "false",
    "skip_packing": "true",
    "skip_upload_hf": "true",
    "dumpdir": "dump",
    "expdir": "exp",
    "feats_type": "raw",
    "lang": "noinfo",
    "token_type": "bpe",
    "nbpe": "30",
    "asr_config": "",
    "asr_args": "",
    "asr_tag": "",
    "asr_exp": "",
    "speed_perturb_factors": "",
    "test_sets": "",
    "inference_asr_model": "valid.acc.ave.pth",
    "inference_config": "",
    "hf_repo": "",
}


class Options(dict):
    """Name → value, as given; `get` falls back on asr.sh's default."""

    def get(self, name: str, default: str | None = None) -> str:
        return super().get(name, DEFAULTS.get(name, "") if default is None else default)

    def number(self, name: str) -> int:
        """A stage.

        Raises:
            ConfigError: it is not a number.
        """
        if not self.get(name).isdecimal():
            raise ConfigError(f"--{name} {self.get(name)} must be a number.")
        return int(self.get(name))

    def arguments(self, **changes: object) -> list[str]:
        """The command line for asr.sh, with `changes` in place of what was given."""
        merged = {**self, **{name: str(value) for name, value in changes.items()}}
        return [word for name, value in merged.items() for word in (f"--{name}", value)]


def parse(argv: Sequence[str]) -> Options:
    """Read `--name value` pairs.

    Raises:
        ConfigError: something is not `--name value`.
    """
    options = Options()
    words = list(argv)
    while words:
        name = words.pop(0)
        if not name.startswith("--") or "=" in name or not words:
            raise ConfigError(f"options must be of the form --name value, not {name}.")
        options[name[2:].replace("-", "_")] = words.pop(0)
    return options


def training_config(options: Options) -> dict:
    """The training config's content.

    Raises:
        ConfigError: it does not exist.
    """
    path = Path(options.get("asr_config"))
    if not path.is_file():
        raise ConfigError(f"--asr_config {path} must be an existing yaml file.")
    return load_config(path)


def experiment_folder(options: Options) -> Path:
    """Where asr.sh trains: `asr_exp`, or made of `asr_tag` or other options."""
    if options.get("asr_exp"):
        return Path(options.get("asr_exp"))
    return (
        Path(options.get("expdir")) / f"asr_{options.get('asr_tag') or _tag(options)}"
    )


def _tag(options: Options) -> str:
    tag = f"{Path(options.get('asr_config')).stem}_{options.get('feats_type')}"
    tag += _tokens(options) + _shortened(options.get("asr_args"))
    return tag + ("_sp" if options.get("speed_perturb_factors") else "")


def lm_tag(options: Options) -> str:
    """The tag that asr.sh gives its language model."""
    tag = Path(options.get("lm_config") or "train").stem
    return tag + _tokens(options) + _shortened(options.get("lm_args"))


def _tokens(options: Options) -> str:
    lang, kind = options.get("lang"), options.get("token_type")
    count = options.get("nbpe") if kind == "bpe" else ""
    return ("" if lang == "noinfo" else f"_{lang}") + f"_{kind}{count}"


def _shortened(arguments: str) -> str:
    return "".join(c for c in arguments.replace("--", "_") if c not in " |=/")
