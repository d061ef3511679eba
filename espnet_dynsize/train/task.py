"""The ASR task with the plugin's choices."""

import argparse

from espnet2.asr_transducer.joint_network import JointNetwork
from espnet2.tasks import asr as asr_tasks
from espnet2.tasks.asr import (
    ASRTask,
    encoder_choices,
    frontend_choices,
    model_choices,
)

from espnet_dynsize.core.context import SIZES
from espnet_dynsize.core.identity import KEYS
from espnet_dynsize.train.choices import (
    ENCODERS,
    FRONTENDS,
    MODELS,
    names_with_hints,
    plain_name,
)
from espnet_dynsize.train.family_task import FamilyTask


class DynSizeASRTask(FamilyTask, ASRTask):
    """ESPnet's ASR task with `DynSizeTrainer`."""

    models = MODELS

    @classmethod
    def register(cls) -> None:
        """See `FamilyTask.register`."""
        register()

    @classmethod
    def what_computes(cls, args: argparse.Namespace) -> dict[str, tuple]:
        """See `FamilyTask.what_computes`."""
        parts = {}
        for choices in cls.class_choices_list:
            chosen = getattr(args, choices.name, None)
            if choices.name in KEYS:
                name = None if chosen is None else plain_name(chosen)
                taker = None if chosen is None else choices.get_class(chosen)
                conf = getattr(args, f"{choices.name}_conf", None)
                parts[choices.name] = name, conf, taker
        name, conf, taker = parts["encoder"]
        if args.model_conf.get("contexts"):  # of which any may be chosen after training
            own = {key: value for key, value in conf.items() if key not in SIZES}
            parts["encoder"] = name, own, taker
        joint = getattr(args, "joint_net_conf", None)
        taker = JointNetwork if parts["decoder"][0] == "transducer" else None
        return parts | {"joint_net": (None, joint, taker)}


def register() -> None:
    """Make ESPnet's ASR task know the plugin; calling it again changes nothing."""
    encoder_choices.classes.update(names_with_hints(ENCODERS))
    frontend_choices.classes.update(names_with_hints(FRONTENDS))
    model_choices.classes.update(MODELS)
    asr_tasks.ASRTask = DynSizeASRTask
