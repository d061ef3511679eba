"""A recipe's `run.sh` for a family: `asr.sh`, and what it lacks for many sizes."""

from collections.abc import Sequence
from pathlib import Path

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.keys import is_family, of_transducer_task
from espnet_dynsize.core.members import family_members
from espnet_dynsize.deploy.upload import check_repo
from espnet_dynsize.recipe.asr_sh import (
    DECODE,
    PACK,
    SCORE,
    STATS,
    TRAIN,
    UPLOAD,
    check_names,
    run_asr_sh,
)
from espnet_dynsize.recipe.folders import claim_shared, name_folders
from espnet_dynsize.recipe.needs import check_needs
from espnet_dynsize.recipe.options import (
    Options,
    choose_sizes,
    parse,
    training_config,
)
from espnet_dynsize.recipe.refused import check_decoding, check_family
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
    config = training_config(options)
    link_tree(Path())
    check_names(options, Path("asr.sh"))
    options.setdefault("python", "espnet-dynsize run")
    first, last = _stages(options)
    if is_family(config):
        check_family(options, config)
        _check_sizes(options, sizes, config)
    check_decoding(options, config)
    check_needs(options, config)
    if options.runs(STATS) or options.runs(TRAIN):
        # Takes seconds: after all else, and only where it trains.
        _check_training(options, config)
    name_folders(options)
    claim_shared(options, config)
    if not is_family(config):
        run_asr_sh(options)
        return
    if first <= TRAIN:
        run_asr_sh(options, stop_stage=min(last, TRAIN))
    after = [s for s in (DECODE, SCORE, PACK, UPLOAD) if options.runs(s)]
    if after:
        # Imports ESPnet, which takes seconds: options are refused before that.
        from espnet_dynsize.recipe.sizes import run_sizes

        run_sizes(options, sizes, after)


def _check_training(options: Options, config: dict) -> None:
    """Find out before the data are prepared what would stop the training."""
    from espnet_dynsize.train.ahead import check_ahead
    from espnet_dynsize.train.check import check_config

    if not is_family(config):
        check_config(config)
        return
    # asr.sh splits them at spaces, too, and knows no quotes in them.
    more = options.get("asr_args").split()
    if options.get("feats_normalize") == "global_mvn":
        more = ["--normalize", "global_mvn", *more]
    pretrained = options.get("pretrained_model")
    if pretrained and options.runs(TRAIN):
        more += ["--init_param", *pretrained.split()]
    audio = options.get("feats_type").startswith("raw")
    arguments = ["--config", options.get("asr_config"), *more]
    check_ahead(arguments, audio, of_transducer_task(config))


def _stages(options: Options) -> tuple[int, int]:
    first, last = options.number("stage"), options.number("stop_stage")
    if first > last:
        raise ConfigError(f"--stage {first} must be at most --stop_stage, {last}.")
    return first, last


def _check_sizes(options: Options, sizes: str, config: dict) -> None:
    """Find out before the training what would stop a later stage."""
    if "sizes=" not in options.get("asr_args"):
        choose_sizes(sizes, family_members(config))
    if not options.test_sets():
        raise ConfigError("--test_sets must name the data directories to decode.")
    if options.runs(UPLOAD):
        if not options.get("hf_repo"):
            raise ConfigError("--skip_upload_hf false needs --hf_repo USER/NAME.")
        check_repo(options.get("hf_repo"))
