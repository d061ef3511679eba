"""What `asr.sh` can do, but not for a family; and what would have no effect.

docs/asr_sh.md has the whole list of options. All of it is refused before any work.
"""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from espnet_dynsize.core.errors import ConfigError, one_line
from espnet_dynsize.core.keys import (
    check_criteria,
    is_transducer,
    of_transducer_task,
    streams,
)
from espnet_dynsize.core.yaml_base import read_yaml
from espnet_dynsize.deploy import decoding
from espnet_dynsize.recipe.asr_sh import DECODE, TRAIN
from espnet_dynsize.recipe.options import Options

_PYTHON = "espnet-dynsize run"
# The names that ESPnet gives to averages and best checkpoints
_KEPT = re.compile(r"(train|valid)\.(\w+)\.(ave|best)(_\d+best)?\.pth")


class Rule(NamedTuple):
    """The values of an option that a family allows; the first one is named."""

    option: str
    allowed: tuple[str, ...]
    why: str


# Options of asr_inference_streaming that asr_inference lacks, and the other way round
ONLY_STREAMING = {
    *("sim_chunk_length", "disable_repetition_detection"),
    *("encoded_feat_length_limit", "decoder_text_length_limit"),
}
ONLY_WHOLE = {
    *("ctc_window_margin", "enh_s2t_task", "hugging_face_decoder", "lang_prompt_token"),
    *("hugging_face_decoder_conf", "max_mask_parallel", "max_seq_len", "model_tag"),
    *("multi_asr", "ngram_file", "ngram_weight", "nlp_prompt_token", "partial_ar"),
    *("prompt_token_file", "quantize_asr_model", "quantize_dtype", "quantize_lm"),
    *("quantize_modules", "streaming", "threshold_probability", "time_sync"),
    "transducer_conf",
}
# ESPnet's other task, and the options of its script for decoding
TRANSDUCER = "asr_transducer"
OF_TRANSDUCERS = {
    *("log_level", "ngpu", "seed", "dtype", "num_workers", "key_file", "batch_size"),
    *("allow_variable_data_keys", "asr_train_config", "asr_model_file", "output_dir"),
    *("lm_train_config", "lm_file", "model_tag", "nbest", "beam_size", "lm_weight"),
    *("beam_search_config", "token_type", "bpemodel", "quantize_asr_model"),
    *("quantize_modules", "quantize_dtype", "streaming", "decoding_window"),
    *("left_context", "display_hypotheses", "data_path_and_name_and_type", "config"),
    "help",
}
_OFF = ("false", "")
_ALONE = ("1", "")
_NO_PROMPTS = "a family trains on transcripts without prompts"
_ONE_SPEAKER = "a family recognises one speaker"
RULES = (
    Rule("use_maskctc", _OFF, "it has no Mask-CTC decoder"),
    Rule("use_k2", _OFF, "nobody has tried its sizes with k2"),
    Rule(
        "use_lightning",
        _OFF,
        "ESPnet2's Lightning script does not advance the family's schedule (ESPnet3's "
        "trainer does)",
    ),
    Rule("use_word_lm", _OFF, "asr.sh does not support it"),
    Rule("use_prompt", _OFF, _NO_PROMPTS),
    Rule("use_lang_prompt", _OFF, _NO_PROMPTS),
    Rule("use_nlp_prompt", _OFF, _NO_PROMPTS),
    Rule("num_ref", _ALONE, _ONE_SPEAKER),
    Rule("num_inf", _ALONE, _ONE_SPEAKER),
    Rule("sot_asr", _OFF, _ONE_SPEAKER),
    Rule(
        "token_type",
        ("bpe", "char", "word"),
        "asr.sh makes no other token list that begins with the blank of CTC",
    ),
    Rule("auxiliary_data_tags", ("",), "it trains on one text"),
    Rule("download_model", ("",), "asr.sh would decode that model for every size"),
    Rule(
        "feats_type",
        ("raw", "raw_copy", "extracted", "fbank_pitch"),
        "asr.sh makes no other features",
    ),
)


def check_family(options: Options, config: Mapping) -> None:
    """Refuse options of `asr.sh` with which a family cannot be.

    Args:
        options: Those of `asr.sh`.
        config: The training config.

    Raises:
        ConfigError: there is one.
    """
    for option, allowed, why in RULES:
        value = options.get(option)
        if value not in allowed:
            named = " or ".join(name for name in allowed if name) or "left out"
            raise ConfigError(
                f"--{option} {value} must be {named} for a family: {why}."
            )
    python = options.get("python")
    if "espnet-dynsize" not in python and "espnet_dynsize" not in python:
        raise ConfigError(
            f"--python '{python}' must be '{_PYTHON}' for a family: ESPnet alone does "
            "not know its encoders."
        )
    _check_task(options, config)
    if options.true("use_streaming") and not streams(config):
        raise ConfigError(
            f"--use_streaming true needs an encoder that streams in "
            f"{options.get('asr_config')}, such as dynsize_contextual_block_conformer "
            f"with a block_size above 0, not {config.get('encoder')}."
        )
    _check_splits(options, config)
    _check_checkpoint(options, config)


def _check_task(options: Options, config: Mapping) -> None:
    """`asr.sh` has two tasks, whose configs are alike, but not the same."""
    given, transducer = options.get("asr_task") or "asr", of_transducer_task(config)
    wanted = TRANSDUCER if transducer else "asr"
    if given != wanted:
        has = "has" if transducer else "has no"
        raise ConfigError(
            f"--asr_task {given} must be {wanted}: {options.get('asr_config')} {has} "
            "encoder_conf: body_conf."
        )
    if transducer and options.true("use_streaming"):
        raise ConfigError(
            f"--use_streaming true is not for --asr_task {TRANSDUCER}: write "
            "streaming: true into the decoding config."
        )


def _check_splits(options: Options, config: Mapping) -> None:
    """With a split corpus, nobody knows beforehand how many updates a run has."""
    conf = config["model_conf"]
    timed = "search_updates" in (conf.get("selector_conf") or {})
    timed = timed or "search_updates" in options.get("asr_args")
    splits = options.number("num_splits_asr")
    if splits > 1 and not timed and options.runs(TRAIN):
        raise ConfigError(
            f"--num_splits_asr {splits} needs selector_conf: search_updates in the "
            "training config, in place of search_fraction: how long a run over parts "
            "of the corpus is, is not known beforehand."
        )


def _check_checkpoint(options: Options, config: Mapping) -> None:
    """The checkpoint that is to be decoded must be one that training leaves."""
    name = options.get("inference_asr_model")
    kept, criteria = _KEPT.fullmatch(name), config.get("best_model_criterion")
    given = "best_model_criterion" in options.get("asr_args")
    if kept is None or not criteria or given or not options.runs(TRAIN):
        return
    check_criteria(criteria)
    names = [f"{phase}.{criterion}" for phase, criterion, _ in criteria]
    if f"{kept[1]}.{kept[2]}" not in names:
        raise ConfigError(
            f"--inference_asr_model {name} must be of a best_model_criterion of "
            f"{options.get('asr_config')}: {' or '.join(names)}."
        )


def check_decoding(options: Options, config: Mapping) -> None:
    """Refuse what no search or the model cannot do, or what changes no hypothesis.

    Args:
        options: Those of `asr.sh`.
        config: The training config.

    Raises:
        ConfigError: an option is out of range; a language model or n-grams have the
            weight 0, or the search does not use them; CTC has a weight, but the model
            has none; there is no such decoding config.
    """
    if not options.runs(DECODE):
        return
    whole = decoding_config(options)
    if of_transducer_task(config):
        _check_transducer(options, whole, config)
    else:
        _check_script(options, whole)
    given = decoding.of_search(whole)
    decoding.check_kept("decoding", given)
    conf = {**decoding.DEFAULTS, **given}
    for use, weight in (("use_lm", "lm_weight"), ("use_ngram", "ngram_weight")):
        if not options.true(use):
            continue
        if conf[weight] == 0:
            _refuse_in_vain(options, use, weight, "not be 0", "0.3")
        if is_transducer(config) and conf["beam_size"] <= 1:
            _refuse_in_vain(options, use, "beam_size", "be above 1", "5")
    attends = config.get("decoder") is not None and not is_transducer(config)
    if attends and not decoding.has_ctc(config) and conf["ctc_weight"] != 0:
        raise ConfigError(
            f"decoding: ctc_weight={conf['ctc_weight']} must be 0: the training config "
            "has ctc_weight: 0, and so no CTC."
        )
    number, file = options.get("ngram_num"), options.get("inference_ngram")
    if options.true("use_ngram") and number != "3" and not file:
        # asr.sh names the file before it reads its options.
        raise ConfigError(
            f"--ngram_num {number} needs --inference_ngram {number}gram.bin: asr.sh "
            "decodes with 3gram.bin else."
        )


def _check_transducer(options: Options, conf: Mapping, config: Mapping) -> None:
    """What ESPnet's transducer script does not know, and models that do not stream."""
    for key in conf:
        if key not in OF_TRANSDUCERS:
            raise ConfigError(
                f"decoding: {key}={conf[key]} is not for --asr_task {TRANSDUCER}."
            )
    if options.true("use_ngram"):
        raise ConfigError(f"--use_ngram true is not for --asr_task {TRANSDUCER}.")
    # ESPnet takes any text for true.
    if conf.get("streaming") not in (None, False, ""):
        # Imports ESPnet, which takes seconds.
        from espnet_dynsize.train.streaming import check_chunked

        given = {"frontend": "default", **config}
        if options.get("feats_normalize") == "global_mvn":  # asr.sh says so
            given["normalize"] = "global_mvn"
        check_chunked(options.get("asr_config"), given)
        decoding.check_streaming_search(conf)


def _check_script(options: Options, conf: Mapping) -> None:
    """ESPnet's two scripts do not have the same options."""
    if not options.true("use_streaming"):
        for key in sorted(ONLY_STREAMING & set(conf)):
            raise ConfigError(
                f"decoding: {key}={conf[key]} needs --use_streaming true."
            )
        return
    for key in sorted(ONLY_WHOLE & set(conf)):
        raise ConfigError(
            f"decoding: {key}={conf[key]} is not for --use_streaming true."
        )
    if options.true("use_ngram"):
        raise ConfigError("--use_ngram true is not for --use_streaming true.")
    for size in (options.get("batch_size"), str(conf.get("batch_size", ""))):
        if size not in ("1", ""):
            raise ConfigError(
                f"--batch_size {size} must be 1 with --use_streaming true."
            )
    if str(conf.get("maxlenratio", "")).startswith("-"):
        raise ConfigError(
            f"decoding: maxlenratio={conf['maxlenratio']} must be at least 0 with "
            "--use_streaming true, whose search takes less for one token."
        )


def _refuse_in_vain(
    options: Options, use: str, option: str, allowed: str, such_as: str
) -> None:
    raise ConfigError(
        f"--{use} true: {option} of {options.get('inference_config') or 'decoding'} "
        f"must {allowed}, or no hypothesis changes: give --inference_args "
        f'"--{option} {such_as}" or another --inference_config.'
    )


def decoding_config(options: Options) -> dict:
    """The decoding config, with what `inference_args` changes.

    Raises:
        ConfigError: it cannot be read, or a quote has no end.
    """
    path = options.get("inference_config")
    conf = read_yaml(Path(path)) or {} if path else {}
    if not isinstance(conf, dict):
        raise ConfigError(f"--inference_config {path} must have keys and values.")
    changes = options.get("inference_args")
    try:
        words = shlex.split(changes.replace("=", " "))
    except ValueError as error:
        raise ConfigError(f"--inference_args {changes}: {one_line(error)}.") from error
    pairs = zip(words, words[1:])
    return conf | {n[2:]: value for n, value in pairs if n.startswith("--")}
