"""The plugin's keys in a training config, and what they say: the one place for both."""

from collections.abc import Mapping, Sequence

from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.core.schema import Count, Fraction, check_value

ENCODER_PREFIX = "dynsize_"
MODEL = "dynsize"
# The encoder of ESPnet's task `asr_transducer`
CHUNKED = f"{ENCODER_PREFIX}chunked"
KALDI = "kaldi"  # front-end
# Keys of `model_conf` that describe the family and how it trains. A cut model has none.
FAMILY_KEYS = (
    "sizes",
    "budgets",
    "selector",
    "selector_conf",
    "layer_drop_joint",
    "sparsity",
    "contexts",
    "subnet_weight",
    "sandwich",
    "distill_weight",
    "forgetting",
    "subnet",
)
# Those of them that stood in `encoder_conf` in version 0.1
MOVED_KEYS = FAMILY_KEYS[:5] + ("subnet",)
# What ESPnet reads of every model's config, and of those of its task `asr`
_NEEDED = (
    *("token_list", "input_size", "specaug", "normalize", "encoder_conf"),
    *("model_conf", "init"),
)
_OF_ASR = ("encoder", "ctc_conf")
_OF_TRANSDUCER = ("decoder", "joint_network_conf")
# Keys of `encoder_conf` that say which units a cut model has
KEPT_KEYS = ("keep_layers", "keep_components")
# Keys of `encoder_conf` that stock encoders do not have
ENCODER_KEYS = (
    *KEPT_KEYS,
    "granularity",
    "ffn_chunks",
    "conv_norm",
    "convolution_first",
    "skip_empty_blocks",
    "respect_lengths",
)


def check_complete(config: Mapping, source: str) -> None:
    """Refuse what is not the config of an ASR model.

    Args:
        config: What a config.yaml holds.
        source: Its name, for messages.

    Raises:
        ConfigError: a key is missing.
    """
    needed = [*_NEEDED]
    needed += _OF_TRANSDUCER if of_transducer_task(config) else _OF_ASR
    if config.get("input_size") is None:
        needed += ["frontend", "frontend_conf"]
    for part in ("specaug", "normalize", "preencoder", "postencoder", "decoder"):
        if config.get(part) is not None:
            needed.append(f"{part}_conf")
    missing = [key for key in needed if key not in config]
    if missing:
        raise ConfigError(f"{source} is not an ASR model's config: no {missing[0]}.")
    tokens = config["token_list"]
    listed = isinstance(tokens, list) and all(type(token) is str for token in tokens)
    # ESPnet3 leaves the name of a file.
    if not tokens or not (listed or isinstance(tokens, str)):
        raise ConfigError(f"{source}: token_list must be a list of tokens, or a file.")


def check_criteria(criteria: object) -> None:
    """Refuse what is no list of criteria for the best model.

    Raises:
        ConfigError: it is not.
    """
    listed = isinstance(criteria, list | tuple) and len(criteria) > 0
    check(listed, "best_model_criterion", criteria, "a list of criteria")
    for criterion in criteria:
        check_criterion("best_model_criterion", criterion)


def check_criterion(key: str, criterion: object) -> None:
    """Refuse what does not name a statistic and which of its values are better.

    Args:
        key: ESPnet's option, for the message.
        criterion: What it is set to.

    Raises:
        ConfigError: it does not.
    """
    good = isinstance(criterion, list | tuple) and len(criterion) == 3
    good = good and all(isinstance(part, str) for part in criterion)
    allowed = "a list of phase, name and mode, such as [valid, loss, min]"
    check(good, key, criterion, allowed)
    mode = criterion[-1]
    check(mode in ("min", "max"), f"{key}: {list(criterion)}", mode, "min or max")


def of_transducer_task(config: Mapping) -> bool:
    """Whether the config is one of ESPnet's task `asr_transducer`.

    Only that one's have blocks of several kinds.
    """
    return "body_conf" in (config.get("encoder_conf") or {})


def is_transducer(config: Mapping) -> bool:
    """Whether the config describes a transducer, of either task."""
    return config.get("decoder") == "transducer" or of_transducer_task(config)


def is_plugin(config: Mapping) -> bool:
    """Whether the config's encoder is one of this plugin's."""
    return str(config.get("encoder")).startswith(ENCODER_PREFIX)


def needs_plugin(config: Mapping) -> bool:
    """Whether ESPnet alone lacks a part of the config's model."""
    return is_plugin(config) or has_kaldi(config)


def has_kaldi(config: Mapping) -> bool:
    """Whether the config's front-end is this plugin's."""
    # In a packed config, a hint comes behind the name.
    return str(config.get("frontend")).split(" ")[0] == KALDI


def streams(config: Mapping) -> bool:
    """Whether the config's encoder is one that encodes chunk by chunk."""
    conf = config.get("encoder_conf") or {}
    # ESPnet's 0 is a block as long as the utterance.
    return has_blocks(config) and conf.get("block_size") != 0


def has_blocks(config: Mapping) -> bool:
    """Whether the config's encoder is one of blocks of frames."""
    name = str(config.get("encoder")).removeprefix(ENCODER_PREFIX)
    return name.startswith("contextual_block_")


def is_family(config: Mapping) -> bool:
    """Whether the config describes a supernet with sizes."""
    conf = config.get("model_conf") or {}
    return any(conf.get(key) for key in ("sizes", "budgets", "sparsity"))


def family_sizes(config: Mapping) -> list[int]:
    """The sizes that a supernet's config names.

    Raises:
        ConfigError: what it has there are no sizes and no budget.
    """
    conf = config["model_conf"]
    if conf.get("sizes") is not None:
        check_value("model_conf: sizes", conf["sizes"], list[Count])
        return list(conf["sizes"])
    budgets = conf.get("budgets")
    check_value("model_conf: budgets", budgets, dict[str, list[Fraction]])
    check(len(budgets) == 1, "model_conf: budgets", budgets, "a section of one key")
    return budget_sizes(next(iter(budgets.values())))


def budget_sizes(fractions: Sequence[float]) -> list[int]:
    """Names of the sizes that have budgets: per cent of the full cost."""
    return [round(100 * fraction) for fraction in fractions]


def kept_units(config: Mapping) -> list[int] | None:
    """The units of a cut model; None for a supernet."""
    conf = config.get("encoder_conf") or {}
    return next((conf[key] for key in KEPT_KEYS if conf.get(key) is not None), None)


def granularity(config: Mapping) -> str:
    """What a unit is: `layer` or `component`."""
    return (config.get("encoder_conf") or {}).get("granularity", "layer")


def refuse_moved(encoder_conf: Mapping) -> None:
    """Refuse keys that have moved from `encoder_conf` to `model_conf`.

    Raises:
        ConfigError: there is one.
    """
    # ESPnet writes options that are not set as null.
    moved = [key for key in MOVED_KEYS if encoder_conf.get(key) is not None]
    if moved:
        lines = ", ".join(f"{key}: {encoder_conf[key]}" for key in moved)
        raise ConfigError(
            f"encoder_conf: {', '.join(moved)} must be under model_conf since version "
            f"0.2; write there {{{lines}}} (subnet_weight, if set, doubled where "
            "sandwich is not whole); checkpoints stay valid."
        )


def check_model_keys(config: Mapping) -> None:
    """Refuse family keys that ESPnet's own model would not understand.

    Raises:
        ConfigError: there are, without `model: dynsize`.
    """
    conf = config.get("model_conf") or {}
    given = [key for key in FAMILY_KEYS if key in conf]
    if given and config.get("model") != MODEL:
        raise ConfigError(
            f"model_conf: {given[0]}={conf[given[0]]} needs model: {MODEL}, not "
            f"{config.get('model')}."
        )
