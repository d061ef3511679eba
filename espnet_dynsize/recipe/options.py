"""Options in the way of ESPnet's `asr.sh`: `--name value`, the last one counts."""

from collections.abc import Sequence
from pathlib import Path

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.yaml_base import load_config

# What asr.sh takes where an option is not given, as far as it is read here
DEFAULTS = {
    "stage": "1",
    "stop_stage": "10000",
    "skip_train": "false",
    "skip_eval": "false",
    "skip_packing": "true",
    "skip_upload_hf": "true",
    "dumpdir": "dump",
    "expdir": "exp",
    "feats_type": "raw",
    "use_lm": "true",
    "inference_asr_model": "valid.acc.ave.pth",
    "inference_lm": "valid.loss.ave.pth",
}


class Options(dict):
    """Name → value, as given; `get` falls back on asr.sh's default."""

    def get(self, name: str) -> str:
        return super().get(name, DEFAULTS.get(name, ""))

    def number(self, name: str) -> int:
        """A stage.

        Raises:
            ConfigError: it is not a number.
        """
        if not self.get(name).isdecimal():
            raise ConfigError(f"--{name} {self.get(name)} must be a number.")
        return int(self.get(name))

    def runs(self, stage: int) -> bool:
        """Whether asr.sh is asked for this stage of training."""
        asked = self.number("stage") <= stage <= self.number("stop_stage")
        skipped = str(stage) in self.get("skip_stages").split()
        return asked and not skipped and self.get("skip_train") != "true"

    def uses_lm(self) -> bool:
        """Whether hypotheses are scored with a language model, too."""
        return self.get("use_lm") == "true"

    def wants(self, what: str) -> bool:
        """Whether `--skip_<what>` is off."""
        return self.get(f"skip_{what}") != "true"

    def test_sets(self) -> list[str]:
        """What asr.sh decodes; the validation set as it was before any was removed."""
        names, valid = self.get("test_sets").split(), self.get("valid_set")
        both = valid in names or self.get("eval_valid_set") == "true"
        return ([f"org/{valid}"] if both else []) + [n for n in names if n != valid]

    def data_folder(self) -> Path:
        """Where asr.sh keeps the formatted data directories."""
        return Path(self.get("dumpdir")) / self.get("feats_type")

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


def choose_sizes(names: str, family: Sequence[int]) -> list[int]:
    """The sizes in `names`, all where it is empty.

    Raises:
        ConfigError: one is not in the family.
    """
    chosen = names.replace(",", " ").split() or [str(size) for size in family]
    for size in chosen:
        if size not in [str(s) for s in family]:
            raise ConfigError(f"--sizes {names}: {size} is not one of {list(family)}.")
    return [int(size) for size in chosen]
