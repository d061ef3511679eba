"""ESPnet's task `asr_transducer` with the plugin's choices."""

import argparse
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from espnet2.asr_transducer.encoder.encoder import Encoder
from espnet2.asr_transducer.espnet_transducer_model import ESPnetASRTransducerModel
from espnet2.asr_transducer.joint_network import JointNetwork
from espnet2.tasks import asr_transducer
from espnet2.tasks.asr_transducer import ASRTransducerTask
from espnet2.utils.types import str_or_none

from espnet_dynsize.core.identity import KEYS
from espnet_dynsize.train.choices import CHUNKED_ENCODERS, TRANSDUCERS
from espnet_dynsize.train.family_task import FamilyTask
from espnet_dynsize.train.transducer_model import set_loss

_LOCK = threading.RLock()


class DynSizeASRTransducerTask(FamilyTask, ASRTransducerTask):
    """ESPnet's task, in which `encoder` and `model` can be chosen."""

    models = TRANSDUCERS

    @classmethod
    def register(cls) -> None:
        """See `FamilyTask.register`."""
        register()

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """ESPnet's, and the two."""
        super().add_task_arguments(parser)
        group = parser.add_argument_group("Family related.")
        for name, classes in (("encoder", CHUNKED_ENCODERS), ("model", TRANSDUCERS)):
            group.add_argument(
                f"--{name}",
                type=str_or_none,
                choices=[None, *classes],
                help=f"{' or '.join(classes)}; left out: ESPnet's own",
            )

    @classmethod
    def build_model(cls, args: argparse.Namespace):
        """See `FamilyTask.build_model`."""
        with _chosen(args):
            model = super().build_model(args)
        set_loss(model)  # of cut sizes and ESPnet's own, too
        return model

    @classmethod
    def what_computes(cls, args: argparse.Namespace) -> dict[str, tuple]:
        """See `FamilyTask.what_computes`."""
        parts = {}
        for choices in cls.class_choices_list:
            name = getattr(args, choices.name, None)
            if choices.name in KEYS:
                taker = None if name is None else choices.get_class(name)
                parts[choices.name] = name, getattr(args, f"{choices.name}_conf"), taker
        encoder = CHUNKED_ENCODERS.get(args.encoder)
        parts["encoder"] = args.encoder, args.encoder_conf, encoder
        return parts | {"joint_net": (None, args.joint_network_conf, JointNetwork)}


@contextmanager
def _chosen(args: argparse.Namespace) -> Iterator[None]:
    """Let ESPnet's task build what was chosen: it names the classes itself."""
    encoder = CHUNKED_ENCODERS.get(getattr(args, "encoder", None), Encoder)
    model = TRANSDUCERS.get(getattr(args, "model", None), ESPnetASRTransducerModel)
    with _LOCK:
        asr_transducer.Encoder = encoder
        asr_transducer.ESPnetASRTransducerModel = model
        try:
            yield
        finally:
            asr_transducer.Encoder = Encoder
            asr_transducer.ESPnetASRTransducerModel = ESPnetASRTransducerModel


def register() -> None:
    """Make ESPnet's task know the plugin; calling it again changes nothing."""
    asr_transducer.ASRTransducerTask = DynSizeASRTransducerTask
