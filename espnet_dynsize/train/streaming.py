"""What ESPnet's streaming script would misread, refused before training."""

from collections.abc import Mapping

from espnet2.legacy.nets.scorer_interface import BatchScorerInterface

from espnet_dynsize.core.context import family_contexts
from espnet_dynsize.core.errors import check
from espnet_dynsize.core.keys import CHUNKED, has_blocks, streams

_SCRIPT = "asr_inference_streaming"
# Parts that the script leaves out in silence
_LEFT_OUT = ("preencoder", "postencoder")


def check_streams(source: object, config: Mapping) -> None:
    """Refuse models that do not stream, see also `check_streaming`.

    Args:
        source: Where the config is from, for messages.
        config: The model's.

    Raises:
        ConfigError: this is one.
    """
    size = (config.get("encoder_conf") or {}).get("block_size")
    allowed = "above 0: whole utterances do not stream"
    check(size != 0, f"{source}: encoder_conf: block_size", size, allowed)
    allowed = "one that streams, such as dynsize_contextual_block_conformer"
    check(streams(config), f"{source}: encoder", config.get("encoder"), allowed)
    check_streaming(config)


def check_streaming(config: Mapping) -> None:
    """Refuse models whose encoder streams, but not all the rest.

    The script makes features of chunks of a waveform, normalises each chunk, and hands
    them to the encoder.

    Args:
        config: The training config.

    Raises:
        ConfigError: there is such a part.
    """
    conf = config.get("encoder_conf") or {}
    sections = [conf.get(key) or {} for key in ("main_conf", "input_conf")]
    # Others are refused where the encoder is built.
    causal = config.get("encoder") == CHUNKED and all(
        isinstance(section, Mapping) for section in sections
    )
    causal = causal and sections[0].get("dynamic_chunk_training")
    # Of features from elsewhere, only whole utterances can be decoded, as may be meant.
    if causal and config.get("input_size") is None:
        check_chunked("", config)
    if not streams(config) and not (has_blocks(config) and family_contexts(config)):
        return
    encoder = config["encoder"]
    _check_features(config, f"with encoder: {encoder}: {_SCRIPT}")
    for part in _LEFT_OUT:
        allowed = f"null with encoder: {encoder}: {_SCRIPT} leaves it out"
        check(config.get(part) is None, part, config.get(part), allowed)
    # Not above: with the task, the plugin is registered, which imports this module.
    from espnet2.tasks.asr import decoder_choices

    decoder = config.get("decoder")
    # Names that ESPnet does not know are not for here.
    stock = decoder_choices.classes.get(decoder)
    scores = stock is None or issubclass(stock, BatchScorerInterface)
    allowed = f"null or transformer with encoder: {encoder}: {_SCRIPT} cannot use it"
    check(scores, "decoder", decoder, allowed)


def check_chunked(source: object, config: Mapping) -> None:
    """Refuse to stream with a model of the task `asr_transducer` that cannot.

    Args:
        source: Where the config is from, for messages; may be empty.
        config: The model's.

    Raises:
        ConfigError: this is one.
    """
    conf = config["encoder_conf"]
    begin = f"{source}: " if source else ""
    causal = (conf.get("main_conf") or {}).get("dynamic_chunk_training", False)
    key = f"{begin}encoder_conf: main_conf: dynamic_chunk_training"
    check(bool(causal), key, causal, "true in training for a model that streams")
    padded = (conf.get("input_conf") or {}).get("vgg_like", False)
    key = f"{begin}encoder_conf: input_conf: vgg_like"
    allowed = "false to stream: its convolutions would see the ends of chunks"
    check(not padded, key, padded, allowed)
    _check_features(config, "to stream: asr_transducer_inference")


def _check_features(config: Mapping, why: str) -> None:
    """Refuse front-ends that the scripts cannot run on chunks of a waveform.

    Args:
        config: The training config.
        why: Begins the reasons: what streams, and which script.
    """
    size = config.get("input_size")
    check(size is None, "input_size", size, f"null {why} takes audio")
    frontend, normalize = config.get("frontend"), config.get("normalize")
    allowed = f"default {why} makes no other features"
    check(frontend == "default", "frontend", frontend, allowed)
    conf = config.get("frontend_conf") or {}
    allowed = f"true {why} counts frames so"
    for key in ("center", "apply_stft"):
        value = conf.get(key, True)
        check(value is True, f"frontend_conf: {key}", value, allowed)
    for key, value in (conf.get("frontend_conf") or {}).items():
        good = key not in ("use_wpe", "use_beamformer") or not value
        allowed = f"false {why} has not the whole utterance"
        check(good, f"frontend_conf: frontend_conf: {key}", value, allowed)
    allowed = f"global_mvn or null {why} normalises chunks"
    check(normalize in ("global_mvn", None), "normalize", normalize, allowed)
