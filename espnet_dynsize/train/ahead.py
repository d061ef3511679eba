"""What a training would refuse, found out before its data are prepared."""

import argparse
import inspect
from collections.abc import Sequence
from typing import NoReturn

import torch

from espnet_dynsize.control.selectors import find_selector, opening
from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.core.keys import KALDI
from espnet_dynsize.train.check import check_config, check_trainable, check_training
from espnet_dynsize.train.family_task import FamilyTask
from espnet_dynsize.train.init_param import read_init_param
from espnet_dynsize.train.task import DynSizeASRTask
from espnet_dynsize.train.transducer_task import DynSizeASRTransducerTask

# Mel features of ESPnet's own front-end; and, of others that are not known yet, fewer
# than any has: what a budget must pay for is then never taken for more than it is
N_MELS, LEAST = 80, 16
# Parts that want data, or weights that are fetched: left out of the model
_NOT_BUILT = ("frontend", "normalize", "preencoder", "postencoder")
# Decoders that fetch their weights, and want the tokens of these
_FETCHED = ("hugging_face_transformers", "whisper")


def check_ahead(
    arguments: Sequence[str], audio: bool, transducer: bool = False
) -> None:
    """Let everything judge a family's training that needs no data: it is built once.

    A selector of the user's own is not imported: where it is, `path.sh` may say.

    Args:
        arguments: Those of `asr_train` that are known.
        audio: Whether it trains on audio; else on features of unknown dimension.
        transducer: The task is ESPnet's `asr_transducer`.

    Raises:
        ConfigError: see `check_training` and the model.
    """
    task = DynSizeASRTransducerTask if transducer else DynSizeASRTask
    task.register()
    parser = task.get_parser()
    parser.error = _refuse
    # asr.sh starts a process for each GPU.
    args = parser.parse_args([*arguments, "--ngpu", "0"])
    check_config(vars(args))
    # Whether a package is there is to be asked in the recipe's environment.
    size = None if audio else LEAST
    known = {**vars(args), "use_tensorboard": False, "input_size": size}
    check_training(argparse.Namespace(**known))
    _check_parts(args, task)
    conf = args.model_conf
    if "." not in str(conf.get("selector", ".")):
        find_selector(conf["selector"])
    if args.decoder in _FETCHED:
        return
    with opening():
        model = task.build_model(_without_data(args, audio))
    read_init_param(args.init_param or [])
    _check_frozen(model, args.freeze_param or [])


def _check_parts(args: argparse.Namespace, task: type[FamilyTask]) -> None:
    """Parts that are not built have no names and options that do not exist."""
    for choices in task.class_choices_list:
        name = getattr(args, choices.name)
        if choices.name not in _NOT_BUILT or name is None:
            continue
        allowed = f"one of {', '.join(c for c in choices.choices() if c)}"
        check(name in choices.classes, choices.name, name, allowed)
        key = f"{choices.name}_conf"
        conf = getattr(args, key) or {}
        try:
            inspect.signature(choices.get_class(name)).bind_partial(**conf)
        except TypeError as error:
            raise ConfigError(f"{key}={conf} does not go with {name}: {error}.") from (
                error
            )


def _check_frozen(model: torch.nn.Module, freeze_param: list[str]) -> None:
    known = [name for name in freeze_param if name.split(".")[0] not in _NOT_BUILT]
    for name, parameter in model.named_parameters():
        # As ESPnet does
        if any(name == part or name.startswith(f"{part}.") for part in known):
            parameter.requires_grad = False
    check_trainable(model, known)


def _refuse(message: str) -> NoReturn:
    raise ConfigError(f"asr_train would refuse: {message}")


def _without_data(args: argparse.Namespace, audio: bool) -> argparse.Namespace:
    """Options of the same model, but for what stages before the training make."""
    blank = args.model_conf.get("sym_blank", "<blank>")
    plain = getattr(args, "preencoder", None) is None
    own = audio and args.frontend in ("default", KALDI) and plain
    size = (args.frontend_conf or {}).get("n_mels", N_MELS) if own else LEAST
    made = dict(token_list=[blank, "<unk>", "a", "<sos/eos>"], input_size=size)
    unused = dict.fromkeys(("normalize", "preencoder", "postencoder", "init"))
    return argparse.Namespace(**{**vars(args), **made, **unused})
