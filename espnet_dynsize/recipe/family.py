"""A recipe's `run.sh` for a family: `asr.sh`, and what it lacks for many sizes."""

from collections.abc import Sequence
from pathlib import Path

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.keys import family_sizes, is_family
from espnet_dynsize.recipe.asr_sh import DECODE, TRAIN, run_asr_sh
from espnet_dynsize.recipe.folders import name_folders
from espnet_dynsize.recipe.options import (
    Options,
    choose_sizes,
    parse,
    training_config,
)
from espnet_dynsize.recipe.tree import link_tree


def run_recipe(argv: Sequence[str]) -> None:
    """Run a recipe in the working directory.

    A config without a family goes to `asr.sh` whole. For a family, stages up to 11
    train the supernet; then every size is cut, and stages 12 to 15 run for each.

    Args:
        argv: Options of `asr.sh`, and `--sizes "16 48"` (default: all).

    Raises:
        ConfigError: an option cannot be used.
        StageError: `asr.sh` failed.
    """
    options = parse(argv)
    sizes = options.pop("sizes", "")
    first, last = options.number("stage"), options.number("stop_stage")
    config = training_config(options)
    link_tree(Path())
    options.setdefault("python", "espnet-dynsize run")
    if is_family(config):
        _check(options, sizes, config)
    name_folders(options)
    if not is_family(config):
        run_asr_sh(options)
        return
    if first <= TRAIN:
        run_asr_sh(options, stop_stage=min(last, TRAIN))
    if last >= DECODE:
        # Imports ESPnet, which takes seconds: options are refused before that.
        from espnet_dynsize.recipe.sizes import run_sizes

        run_sizes(options, sizes, max(first, DECODE), last)


def _check(options: Options, sizes: str, config: dict) -> None:
    """Find out before the training what would stop a later stage."""
    if "sizes=" not in options.get("asr_args"):
        choose_sizes(sizes, family_sizes(config))
    if not options.test_sets():
        raise ConfigError("--test_sets must name the data directories to decode.")
    if options.wants("upload_hf") and not options.get("hf_repo"):
        raise ConfigError("--skip_upload_hf false needs --hf_repo USER/NAME.")
