"""What ESPnet's streaming script would misread, refused before training."""

from collections.abc import Mapping

from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.core.keys import streams

_SCRIPT = "asr_inference_streaming"
# Parts that the script leaves out in silence
_LEFT_OUT = ("preencoder", "postencoder")


def check_streaming(config: Mapping) -> None:
    """Refuse models whose encoder streams, but not all the rest.

    The script makes features of chunks of a waveform, normalises each chunk, and hands
    them to the encoder.

    Args:
        config: The training config.

    Raises:
        ConfigError: there is such a part.
    """
    if not streams(config):
        return
    encoder = config["encoder"]
    frontend, normalize = config.get("frontend"), config.get("normalize")
    allowed = f"default with encoder: {encoder}: {_SCRIPT} makes no other features"
    check(frontend == "default", "frontend", frontend, allowed)
    center = (config.get("frontend_conf") or {}).get("center", True)
    allowed = f"true with encoder: {encoder}: so {_SCRIPT} counts frames"
    check(center is True, "frontend_conf: center", center, allowed)
    allowed = f"global_mvn or null with encoder: {encoder}: {_SCRIPT} normalises chunks"
    check(normalize in ("global_mvn", None), "normalize", normalize, allowed)
    for part in _LEFT_OUT:
        allowed = f"null with encoder: {encoder}: {_SCRIPT} leaves it out"
        check(config.get(part) is None, part, config.get(part), allowed)
    if config.get("decoder") == "transducer":
        raise ConfigError(
            f"decoder=transducer must be null or one with attention with encoder: "
            f"{encoder}: {_SCRIPT} has no transducer."
        )
