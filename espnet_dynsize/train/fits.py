"""What a model must be like to be trained at several sizes."""

from collections import Counter

from espnet2.train.abs_espnet_model import AbsESPnetModel

from espnet_dynsize.core.errors import ConfigError, check


def check_distillation(model: AbsESPnetModel, distill_weight: float) -> None:
    """Refuse to distil a model's outputs where there are none, or not for all subnets.

    Raises:
        ConfigError: it is so.
    """
    if distill_weight and model.ctc is None:
        raise ConfigError(
            f"distill_weight={distill_weight} needs CTC: ctc_weight above 0."
        )
    if distill_weight and getattr(model.encoder, "ctc_trim", False):
        raise ConfigError(
            f"model_conf: distill_weight={distill_weight} must be 0 with ctc_trim, "
            "which leaves every subnet other frames."
        )


def check_blank(model: AbsESPnetModel, blank: str) -> None:
    """Refuse a token list that does not begin with the blank.

    Args:
        model: An ESPnet model.
        blank: What its config calls the blank.

    Raises:
        ConfigError: it does not, or has nothing else, or something twice.
    """
    # ESPnet's CTC takes token 0 for it, whatever it is: "!" in Whisper's list.
    used = model.ctc is not None or model.use_transducer_decoder
    first = model.token_list[0]
    allowed = f"{blank}, which CTC and transducers predict where nothing is said"
    check(not used or first == blank, "token_list: the first token", first, allowed)
    allowed = "of more tokens than the blank"
    check(len(model.token_list) > 1, "token_list", model.token_list, allowed)
    twice = [t for t, n in Counter(model.token_list).items() if n > 1]
    check(not twice, "token_list: twice in it", twice[:3], "there once each")
