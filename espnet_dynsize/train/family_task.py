"""What the plugin changes in a task of ESPnet's."""

import argparse
import copy
import logging
import platform
import tempfile
import traceback
from contextlib import nullcontext
from pathlib import Path

import torch
import yaml
from espnet2.train.distributed_utils import DistributedOption
from espnet2.utils.build_dataclass import build_dataclass

from espnet_dynsize.control.selectors import opening
from espnet_dynsize.core.bounded import bounded
from espnet_dynsize.core.checkpoint import misfit, read_states
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.identity import describe
from espnet_dynsize.core.keys import check_complete
from espnet_dynsize.core.located import locate
from espnet_dynsize.core.lock import locked
from espnet_dynsize.core.yaml_base import read_config
from espnet_dynsize.encoder.reduced import remove_zeros
from espnet_dynsize.encoder.supernet import Supernet
from espnet_dynsize.train.blanks import begin_with_blanks
from espnet_dynsize.train.check import (
    check_config,
    check_front_end,
    check_token_list,
    check_trainable,
    check_training,
)
from espnet_dynsize.train.crash import CHECKPOINT, config_kept, load_checkpoint
from espnet_dynsize.train.init_param import check_init_param, read_init_param
from espnet_dynsize.train.model import JointLoss
from espnet_dynsize.train.parser import BasedArgumentParser
from espnet_dynsize.train.resume import (
    began_with,
    check_config_apart,
    check_epochs_kept,
    check_not_overwritten,
    check_resumed,
    check_same_blocks,
    check_same_optimizer,
)
from espnet_dynsize.train.scores import separate_scores
from espnet_dynsize.train.trainer import DynSizeTrainer
from espnet_dynsize.train.transducer import rnnt_loss_available


class FamilyTask:
    """Mixin for a task of ESPnet's that may train a family; put it before the task.

    In spawned workers, it registers itself.

    Attributes:
        models: Name of a model that is a family → its class.
    """

    trainer = DynSizeTrainer
    models: dict[str, type]

    @classmethod
    def register(cls) -> None:
        """Make ESPnet know the plugin; calling it again changes nothing."""
        raise NotImplementedError

    @classmethod
    def what_computes(cls, args: argparse.Namespace) -> dict[str, tuple]:
        """The parts by which a model is recognised, see `identity.describe`."""
        raise NotImplementedError

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
        cls.register()
        option = _distributed(args)
        _begin_logging(args, option)
        if args.model in cls.models:
            check_training(args)
            args.init_param = args.init_param or []
            args.freeze_param = args.freeze_param or []
            # ESPnet's also have `acc`, which CTC and transducers do not report, and
            # training losses, which are sums over other subnets in every step.
            default = cls.get_parser().get_default("best_model_criterion")
            if list(map(list, args.best_model_criterion)) == list(map(list, default)):
                args.best_model_criterion = [["valid", "loss", "min"]]
            cls._check_init_param(args)
            # Which sizes are drawn, and so which layers get a gradient, changes from
            # step to step.
            args.unused_parameters = args.unused_parameters or getattr(
                args, "distributed", False
            )
        folder = Path(args.output_dir)
        check_config_apart(getattr(args, "config", None), folder)
        if option.distributed and option.dist_rank != 0:
            # Ranks that were started by hand would wait for one that has refused.
            cls._check_folder(args, folder, first_rank=False)
            super().main_worker(args)
            return
        with locked(folder, "training"), config_kept(folder):
            cls._check_folder(args, folder, first_rank=True)
            super().main_worker(args)

    @classmethod
    def _check_init_param(cls, args: argparse.Namespace) -> None:
        given = read_init_param(args.init_param)
        # While statistics are collected, a model lacks the part that holds them.
        if given and not args.collect_stats:
            model = cls.build_model(copy.deepcopy(args))
            check_init_param(model, given, args.ignore_init_mismatch)

    @classmethod
    def _check_folder(
        cls, args: argparse.Namespace, folder: Path, first_rank: bool
    ) -> None:
        """Refuse to resume another run, before ESPnet has replaced its config.yaml."""
        if args.collect_stats or args.dry_run:
            return
        if not args.resume:
            check_not_overwritten(folder, resume=False)
            return
        if args.model not in cls.models:
            return
        try:
            checkpoint = load_checkpoint(folder, mend=first_rank)
        except ConfigError:
            if first_rank:
                raise
            return  # which the first one mends, or refuses
        if checkpoint is None:
            check_not_overwritten(folder, resume=True)
            return
        began = began_with(folder)
        check_same_optimizer(args, began, folder)
        check_same_blocks(args, began, folder)
        model = cls.build_model(copy.deepcopy(args))
        check_resumed(model, checkpoint, folder / CHECKPOINT)
        check_epochs_kept(args, began, folder, checkpoint)

    @classmethod
    def build_model(cls, args: argparse.Namespace):
        """Build the model that a config describes; see `AbsTask.build_model`.

        Raises:
            ConfigError: a key is not allowed.
        """
        cls.register()  # ESPnet3 comes here without having called it
        check_config(vars(args))
        check_front_end(vars(args))
        check_token_list(args.token_list)
        for key, section in vars(args).items():
            if key.endswith("_conf") and section is None:
                setattr(args, key, {})  # which ESPnet takes for no options
        # ESPnet imports the loss when the model is built.
        with rnnt_loss_available():
            try:
                model = super().build_model(args)
            except AssertionError as error:
                # Most of ESPnet's say nothing but what they compare.
                line = traceback.extract_tb(error.__traceback__)[-1].line
                why = str(error) or line
                raise ConfigError(f"the model cannot be built: {why}") from error
        if isinstance(model, JointLoss):
            known = describe(cls.what_computes(args)) | {"token_list": args.token_list}
            model.schedule.identify(**known)
            if getattr(args, "init", None) is not None:
                # ESPnet has initialised the scores like weights.
                model.schedule.selection.selector.reset_parameters()
            if model.ctc is not None:
                begin_with_blanks(model.ctc.ctc_lo)
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
        No code that the config names is imported. Rows and columns of zeros are left
        out (see `remove_zeros`).

        Raises:
            ConfigError: a file cannot be used, or the checkpoint is of another model
                than the config.
        """
        if config_file is None:
            config_file = Path(model_file).parent / "config.yaml"
        config_file = Path(config_file)
        config = read_config(config_file)
        check_complete(config, str(config_file))
        states = {} if model_file is None else read_states(Path(model_file))
        # Configs and checkpoints come from strangers.
        with opening(), tempfile.TemporaryDirectory() as folder:
            located = Path(folder) / "config.yaml"
            located.write_text(yaml.safe_dump(locate(config, config_file.parent)))
            with bounded(config, states) if states else nullcontext():
                model, args = super().build_model_from_file(located, model_file, device)
        if model_file is not None:
            _check_checkpoint(model, args, states, model_file)
            if isinstance(model, JointLoss) and model.schedule.only is not None:
                # Before it is final, its weights are not all zero that will be.
                model.subnet(model.schedule.only)
            if isinstance(getattr(model, "encoder", None), Supernet):
                remove_zeros(model.encoder)
        return model, args

    @classmethod
    def build_optimizers(
        cls, args: argparse.Namespace, model: torch.nn.Module
    ) -> list[torch.optim.Optimizer]:
        """Stock optimisers, with the selector's scores kept out of weight decay."""
        # ESPnet has frozen what the config wants frozen.
        if isinstance(model, JointLoss):
            check_trainable(model, args.freeze_param)
            model.begin_training(args.seed)
        optimizers = super().build_optimizers(args, model)
        if isinstance(model, JointLoss):
            selection = model.schedule.selection
            scores = list(selection.selector.parameters())
            for optimizer in optimizers:
                separate_scores(optimizer, scores, selection.search.score_lr)
            optimizers[-1].register_step_post_hook(
                lambda stepped, *_: model.schedule.after_step(stepped)
            )
        return optimizers


def _distributed(args: argparse.Namespace) -> DistributedOption:
    """Which process this is: its rank may be in the environment, as from Slurm."""
    option = build_dataclass(DistributedOption, args)
    option.init_options()
    return option


def _begin_logging(args: argparse.Namespace, option: DistributedOption) -> None:
    """As ESPnet does, which only the first call in a process can.

    Without it, the first warning of the checks here would make it: all that is only
    information, such as every epoch's results, would be missing from the log.
    """
    rank = f":{option.dist_rank}/{option.dist_world_size}" if option.distributed else ""
    first = not option.distributed or option.dist_rank == 0
    logging.basicConfig(
        level=args.log_level if first else "ERROR",
        format=f"[{platform.node().split('.')[0]}{rank}]"
        " %(asctime)s (%(module)s:%(lineno)d) %(levelname)s: %(message)s",
    )


def _check_checkpoint(
    model: torch.nn.Module,
    args: argparse.Namespace,
    states: dict[str, torch.Tensor],
    model_file: Path | str,
) -> None:
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
