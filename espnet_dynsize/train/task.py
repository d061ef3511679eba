"""The ASR task with the plugin's choices."""

import argparse
import importlib.util
from pathlib import Path

import torch
from espnet2.tasks import asr as asr_tasks
from espnet2.tasks.asr import ASRTask, encoder_choices, model_choices
from espnet2.torch_utils.safe_torch_load import safe_torch_load

from espnet_dynsize.control.selectors import opening
from espnet_dynsize.core.checkpoint import misfit, model_states
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.keys import MODEL, check_model_keys
from espnet_dynsize.encoder.conformer import DynSizeConformerEncoder
from espnet_dynsize.encoder.e_branchformer import DynSizeEBranchformerEncoder
from espnet_dynsize.encoder.supernet import Supernet
from espnet_dynsize.encoder.transformer import DynSizeTransformerEncoder
from espnet_dynsize.train.model import DynSizeASRModel, JointLoss
from espnet_dynsize.train.parser import BasedArgumentParser
from espnet_dynsize.train.scores import separate_scores
from espnet_dynsize.train.trainer import DynSizeTrainer
from espnet_dynsize.train.transducer import rnnt_loss_available

ENCODERS = {
    "dynsize_conformer": DynSizeConformerEncoder,
    "dynsize_e_branchformer": DynSizeEBranchformerEncoder,
    "dynsize_transformer": DynSizeTransformerEncoder,
}
# What a packed config has after its encoder's name, so that ESPnet, which repeats names
# that it does not know, tells users without the plugin what is missing.
INSTALL_HINT = " (needs the plugin espnet_dynsize)"
# The hint that version 0.1 wrote
_OLD_HINT = " (pip install espnet-dynsize)"
MODELS = {MODEL: DynSizeASRModel}


class DynSizeASRTask(ASRTask):
    """ESPnet's ASR task with `DynSizeTrainer`; registers itself in spawned workers."""

    trainer = DynSizeTrainer

    @classmethod
    def get_parser(cls):
        """ESPnet's options; `--config` may name a config with a `base`."""
        parser = super().get_parser()
        # The parser is made and filled deep in ESPnet; only how it reads yaml differs.
        parser.__class__ = BasedArgumentParser
        return parser

    @classmethod
    def main_worker(cls, args: argparse.Namespace):
        """Train, or collect statistics; see `AbsTask.main_worker`.

        Raises:
            ConfigError: options do not go with a supernet's training.
        """
        register()
        if args.model in MODELS:
            distributed = getattr(args, "distributed", False)
            _check_training(args, distributed)
            # Which sizes are drawn, and so which output layers get a gradient, changes
            # from step to step.
            args.unused_parameters = args.unused_parameters or distributed
        super().main_worker(args)

    @classmethod
    def build_model(cls, args: argparse.Namespace):
        """Build the model that a config describes; see `ASRTask.build_model`.

        Raises:
            ConfigError: a key is not allowed.
        """
        register()  # ESPnet3 comes here without having called it
        check_model_keys(vars(args))
        # ESPnet imports the loss when the model is built.
        with rnnt_loss_available():
            model = super().build_model(args)
        if isinstance(model, JointLoss) and getattr(args, "init", None) is not None:
            # ESPnet has initialised the scores like weights.
            model.schedule.selection.selector.reset_parameters()
        return model

    @classmethod
    def build_model_from_file(
        cls,
        config_file: Path | str | None = None,
        model_file: Path | str | None = None,
        device: str = "cpu",
    ):
        """Build and load a model; see `AbsTask.build_model_from_file`.

        ESPnet loads what fits and ignores the rest; a supernet's checkpoint must fit.
        No code that the config names is imported.

        Raises:
            ConfigError: the checkpoint is of another model than the config.
        """
        # Configs and checkpoints come from strangers.
        with opening():
            model, args = super().build_model_from_file(config_file, model_file, device)
        if model_file is not None:
            _check_checkpoint(model, args, model_file)
        return model, args

    @classmethod
    def build_optimizers(
        cls, args: argparse.Namespace, model: torch.nn.Module
    ) -> list[torch.optim.Optimizer]:
        """Stock optimisers, with the selector's scores kept out of weight decay."""
        optimizers = super().build_optimizers(args, model)
        if isinstance(model, JointLoss):
            selection = model.schedule.selection
            scores = list(selection.selector.parameters())
            for optimizer in optimizers:
                separate_scores(optimizer, scores, selection.search.score_lr)
            optimizers[-1].register_step_post_hook(
                lambda *_: model.schedule.after_step()
            )
        return optimizers


def _check_training(args: argparse.Namespace, distributed: bool) -> None:
    """Refuse, before anything is built, what would train a wrong model."""
    if args.ngpu > 1 and not distributed:
        raise ConfigError(
            f"ngpu={args.ngpu} needs multiprocessing_distributed: true: threads of one "
            "process (DataParallel) would share the switch that says which size "
            "computes."
        )
    for package, needed in (
        ("editdistance", True),
        ("tensorboard", args.use_tensorboard),
    ):
        if needed and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"training needs the package {package}: pip install {package}."
            )
    size = args.model_conf.get("subnet")
    if size is not None and not args.collect_stats:
        raise ConfigError(
            f"model_conf: subnet={size} must be left out of a training config: it is "
            "the size that decodes."
        )


def _check_checkpoint(
    model: torch.nn.Module, args: argparse.Namespace, model_file: Path | str | None
) -> None:
    # On the meta device, shapes are read and weights are not.
    states = model_states(safe_torch_load(model_file, map_location="meta"))
    if isinstance(getattr(model, "encoder", None), Supernet):
        wrong = misfit(model, states)
        if wrong is not None:
            raise ConfigError(
                f"model_file={model_file} does not fit its config: {wrong}."
            )
    # ESPnet loads what fits: the full size, without a word.
    elif any("schedule." in name or ".by_size." in name for name in states):
        raise ConfigError(
            f"model_file={model_file} is a supernet's, but its config has encoder: "
            f"{args.encoder}: use the config.yaml that was written with it, or extract "
            "a size."
        )


def register() -> None:
    """Make ESPnet's ASR task know the plugin; calling it again changes nothing."""
    encoder_choices.classes.update(ENCODERS)
    for hint in (INSTALL_HINT, _OLD_HINT):
        encoder_choices.classes.update({n + hint: c for n, c in ENCODERS.items()})
    model_choices.classes.update(MODELS)
    asr_tasks.ASRTask = DynSizeASRTask
