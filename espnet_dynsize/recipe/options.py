"""Options in the way of ESPnet's `asr.sh`: `--name value`, the last one counts."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.members import Member
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
    "feats_normalize": "global_mvn",
    "token_type": "bpe",
    "nbpe": "30",
    "bpemode": "unigram",
    "lang": "noinfo",
    "asr_task": "asr",
    "use_lm": "true",
    "use_ngram": "false",
    "ngram_num": "3",
    "num_splits_asr": "1",
    "inference_asr_model": "valid.acc.ave.pth",
    "inference_lm": "valid.loss.ave.pth",
}
# The stages that asr.sh leaves out where an option is true
_SKIPS: Mapping[str, Iterable[int]] = {
    "skip_data_prep": range(1, 6),
    "skip_train": (2, *range(4, 12)),
    "skip_eval": (12, 13),
    "skip_packing": (14,),
    "skip_upload_hf": (15,),
}


class Options(dict):
    """Name → value, as given; `get` falls back on asr.sh's default.

    Attributes:
        defaults: What `get` falls back on.
    """

    defaults: Mapping[str, str] = DEFAULTS

    def get(self, name: str) -> str:
        return super().get(name, self.defaults.get(name, ""))

    def number(self, name: str) -> int:
        """A stage, or a count.

        Raises:
            ConfigError: it is not a number.
        """
        if not self.get(name).isdecimal():
            raise ConfigError(f"--{name} {self.get(name)} must be a number.")
        return int(self.get(name))

    def true(self, name: str) -> bool:
        return self.get(name) == "true"

    def skipped(self) -> set[int]:
        """The stages that asr.sh would leave out.

        Raises:
            ConfigError: `skip_stages` are not numbers.
        """
        names = self.get("skip_stages").split()
        if not all(name.isdecimal() for name in names):
            raise ConfigError(
                f"--skip_stages '{self.get('skip_stages')}' must be numbers of stages, "
                "with spaces between them."
            )
        skipped = {int(name) for name in names}
        for option, stages in _SKIPS.items():
            skipped.update(stages if self.true(option) else ())
        skipped.update(() if self.uses_lm() else (6, 7, 8))
        skipped.update(() if self.true("use_ngram") else (9,))
        return skipped

    def runs(self, stage: int) -> bool:
        """Whether asr.sh is asked for this stage."""
        asked = self.number("stage") <= stage <= self.number("stop_stage")
        return asked and stage not in self.skipped()

    def uses_lm(self) -> bool:
        """Whether hypotheses are scored with a language model, too."""
        return self.true("use_lm")

    def test_sets(self) -> list[str]:
        """What asr.sh decodes; the validation set as it was before any was removed."""
        # asr.sh leaves out what is named twice.
        names = list(dict.fromkeys(self.get("test_sets").split()))
        valid = self.get("valid_set")
        both = valid in names or self.true("eval_valid_set")
        return ([f"org/{valid}"] if both else []) + [n for n in names if n != valid]

    def data_folder(self) -> Path:
        """Where asr.sh keeps the formatted data directories."""
        return Path(self.get("dumpdir")) / self.get("feats_type")

    def arguments(self, **changes: object) -> list[str]:
        """The command line for asr.sh, with `changes` in place of what was given."""
        merged = {**self, **{name: str(value) for name, value in changes.items()}}
        if merged.get("skip_stages"):
            # asr.sh adds its own without a space: "11" and "6 7 8" become "116 7 8".
            merged["skip_stages"] = f"{merged['skip_stages'].strip()} "
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


def choose_sizes(names: str, family: Sequence[Member]) -> list[Member]:
    """The members in `names`, all where it is empty.

    Raises:
        ConfigError: one is not in the family.
    """
    known = {member.name: member for member in family}
    chosen = names.replace(",", " ").split() or list(known)
    for name in chosen:
        if name not in known:
            labels = [member.label for member in family]
            raise ConfigError(f"--sizes {names}: {name} is not one of {labels}.")
    return [known[name] for name in chosen]
