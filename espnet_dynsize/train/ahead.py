"""What a training would refuse, found out before its data are prepared."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from espnet_dynsize.control.selectors import find_selector, opening
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.train.check import check_config, check_training
from espnet_dynsize.train.task import DynSizeASRTask, register

# Mel features of ESPnet's own front-end; and, of others that are not known yet, fewer
# than any has: what a budget must pay for is then never taken for more than it is
N_MELS, LEAST = 80, 16
# Decoders that fetch their weights, and want the tokens of these
_FETCHED = ("hugging_face_transformers", "whisper")


def check_ahead(arguments: Sequence[str], audio: bool) -> None:
    """Let everything judge a family's training that needs no data: it is built once.

    A selector of the user's own is not imported: where it is, `path.sh` may say.

    Args:
        arguments: Those of `asr_train` that are known.
        audio: Whether it trains on audio; else on features of unknown dimension.

    Raises:
        ConfigError: see `check_training` and the model.
    """
    register()
    parser = DynSizeASRTask.get_parser()
    parser.error = _refuse
    # asr.sh starts a process for each GPU.
    args = parser.parse_args([*arguments, "--ngpu", "0"])
    check_config(vars(args))
    # Whether a package is there is to be asked in the recipe's environment.
    check_training(argparse.Namespace(**{**vars(args), "use_tensorboard": False}))
    conf = args.model_conf
    if "." not in str(conf.get("selector", ".")):
        find_selector(conf["selector"])
    if args.decoder in _FETCHED:
        return
    with opening():
        DynSizeASRTask.build_model(_without_data(args, audio))


def _refuse(message: str) -> NoReturn:
    raise ConfigError(f"asr_train would refuse: {message}")


def _without_data(args: argparse.Namespace, audio: bool) -> argparse.Namespace:
    """Options of the same model, but for what stages before the training make."""
    blank = args.model_conf.get("sym_blank", "<blank>")
    own = audio and args.frontend == "default" and args.preencoder is None
    size = (args.frontend_conf or {}).get("n_mels", N_MELS) if own else LEAST
    made = dict(token_list=[blank, "<unk>", "a", "<sos/eos>"], input_size=size)
    unused = dict.fromkeys(("normalize", "preencoder", "postencoder", "init"))
    return argparse.Namespace(**{**vars(args), **made, **unused})
