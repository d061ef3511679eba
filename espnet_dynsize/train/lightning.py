"""Training supernets with ESPnet3 (Lightning)."""

import json
import math
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from hydra.utils import get_class
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy

from espnet_dynsize.control.schedule import Schedule
from espnet_dynsize.control.selection import Phase, check_search_fits
from espnet_dynsize.core.checkpoint import misfit, model_states
from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.core.files import whole
from espnet_dynsize.core.identity import canonical
from espnet_dynsize.train.check import check_lasts, check_no_subnet, check_trainable
from espnet_dynsize.train.crash import models_in
from espnet_dynsize.train.model import JointLoss
from espnet_dynsize.train.scores import check_score_lr, separate_scores

# A copy of the config of the run that is in the folder: ESPnet3 writes that of the next
# one before anybody is asked whether it may go on
CONFIG, KEPT_CONFIG = "config.yaml", ".config.yaml"


class SubnetScheduleCallback(Callback):
    """Advances the subnet schedule by one with every optimiser step.

    In an ESPnet3 `training.yaml`:

        task: espnet_dynsize.train.task.DynSizeASRTask
        trainer:
          callbacks:
            - _target_: espnet_dynsize.train.lightning.SubnetScheduleCallback
              seed: 0

    While searching, no checkpoint counts as one of the best, so averages are over the
    joint phase only, and early stopping waits for it. The schedule is in the model's
    state: `fit: {ckpt_path: last}` goes on where the run stopped.

    Args:
        seed: From it and the update's number follows which subnets are drawn.
    """

    def __init__(self, seed: int = 0):
        self.seed = seed
        self._kept: dict[ModelCheckpoint, int] = {}
        # Option → what the config says, as text
        self._optimization: dict[str, str] = {}
        self._accepted = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the model, and keep the scores out of weight decay.

        Raises:
            ConfigError: it is not a supernet or has a `subnet`, or DDP does not look
                for unused parameters.
        """
        if not isinstance(pl_module.model, JointLoss):
            raise ConfigError(
                "SubnetScheduleCallback needs model: dynsize with a supernet encoder."
            )
        strategy = trainer.strategy
        # A private attribute, but Lightning keeps DDP's options nowhere else.
        if isinstance(strategy, DDPStrategy) and not strategy._ddp_kwargs.get(
            "find_unused_parameters", False
        ):
            raise ConfigError(
                "trainer: strategy must be ddp_find_unused_parameters_true: which "
                "layers get a gradient changes from step to step."
            )
        schedule = pl_module.model.schedule
        if stage == "fit":
            check_no_subnet(pl_module.model.fixed_size)
            good = pl_module.model.ledger is None
            check(good, "model_conf: forgetting", "set", "left out with ESPnet3")
            # ESPnet3 has frozen what the config wants frozen.
            frozen = pl_module.config.get("model", {}).get("freeze_param")
            check_trainable(pl_module.model, list(frozen or []))
            for key in ("optimizers", "schedulers"):
                given = pl_module.config.get(key)
                allowed = "left out for a family, which trains with one optimizer"
                check(given is None, key, given, allowed)
            # Whatever weights it starts from; a checkpoint of this run is loaded later.
            schedule.reset()
            pl_module.model.begin_training(self.seed)
            self._check_before_loading(pl_module)
        # The optimizer is built later, from parameters without names: mark the scores.
        for score in schedule.selection.selector.parameters():
            score.score_lr = schedule.selection.search.score_lr
        optimizer = dict(pl_module.config.optimizer)
        # Lightning comes here once for each of fit, validate and test.
        if optimizer["_target_"] != _APART:
            for key in ("optimizer", "scheduler"):
                section = getattr(pl_module.config, key, None)
                self._optimization[key] = json.dumps(canonical(section))
            optimizer["optimizer"] = optimizer["_target_"]
            pl_module.config.optimizer = {**optimizer, "_target_": _APART}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fix the length of the search; a resumed run keeps its own.

        Raises:
            ConfigError: the search does not fit into the run, the learning rate
                scheduler undoes `score_lr`, or a run would begin anew among the
                checkpoints of another.
        """
        folder = Path(pl_module.config.exp_dir)
        self._check_run(trainer, pl_module, folder)
        self._accepted = True
        if trainer.is_global_zero and (folder / CONFIG).is_file():
            with whole(folder / KEPT_CONFIG) as partial:
                shutil.copyfile(folder / CONFIG, partial)
        schedule: Schedule = pl_module.model.schedule
        for optimizer in trainer.optimizers:
            # Lightning calls back before a step and after a batch, not after a step.
            optimizer.register_step_post_hook(
                lambda stepped, *_: schedule.after_step(stepped)
            )

    def _check_run(
        self, trainer: Trainer, pl_module: LightningModule, folder: Path
    ) -> None:
        left = models_in(folder)
        if left and trainer.ckpt_path is None:
            raise ConfigError(
                f"exp_dir={folder} has {left[0]} of another run, which would be mixed "
                "with this one: go on with fit: {ckpt_path: last}, or use another "
                "exp_dir."
            )
        updates = trainer.estimated_stepping_batches
        # Infinite with `max_epochs: -1`.
        # Of a loader without a length Lightning says max_steps, which then is -1.
        total = int(updates) if 0 <= updates < math.inf else None
        schedule: Schedule = pl_module.model.schedule
        # Lightning has loaded the checkpoint by now; the length of the search is in it.
        if not schedule.planned:
            schedule.plan(total)
        last = schedule.last_decision
        check_search_fits(last, total, "trainer: max_epochs", "the resumed run")
        check_score_lr(schedule.selection, trainer.optimizers)
        each = [
            c.scheduler for c in trainer.lr_scheduler_configs if c.interval == "step"
        ]
        check_lasts(each, total)

    def state_dict(self) -> dict[str, str]:
        """What a resumed run must have in common with this one, for the checkpoint."""
        return self._optimization

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Where this run has not begun, put back the config of the one before it."""
        folder = Path(pl_module.config.exp_dir)
        if not self._accepted and (folder / KEPT_CONFIG).is_file():
            with whole(folder / CONFIG) as partial:
                shutil.copyfile(folder / KEPT_CONFIG, partial)

    def _check_before_loading(self, pl_module: LightningModule) -> None:
        """Lightning asks the module before it loads weights, callbacks after that."""
        restore = pl_module.on_load_checkpoint

        def check_and_restore(checkpoint: dict) -> None:
            self._check(pl_module, checkpoint)
            restore(checkpoint)

        pl_module.on_load_checkpoint = check_and_restore

    def _check(self, pl_module: LightningModule, checkpoint: dict) -> None:
        """Refuse to resume another run.

        Raises:
            ConfigError: the checkpoint is of another family, or was written with
                another optimiser or scheduler, whose options come with its state.
        """
        began = checkpoint.get("callbacks", {}).get(self.state_key, {})
        for key, now in self._optimization.items():
            if began.get(key, now) != now:
                raise ConfigError(
                    f"fit: ckpt_path was written with {key}={began[key]}, not {now}; "
                    "use another exp_dir or the config that the run began with."
                )
        # ESPnet3 keeps the model's own names.
        wrong = misfit(pl_module.model, model_states(checkpoint, "ckpt_path"))
        if wrong is not None:
            raise ConfigError(
                f"fit: ckpt_path does not fit the config: {wrong}; use another exp_dir "
                "or the config that the run began with."
            )

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Advance before an update's first batch."""
        # Lightning steps after an epoch's last batch, too: indices begin anew there.
        if batch_idx % trainer.accumulate_grad_batches == 0:
            searched = pl_module.model.schedule.phase is Phase.SEARCH
            pl_module.model.begin_update(self.seed)
            if searched:
                _forget_best(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let checkpoints be ranked in the joint phase only."""
        joint = pl_module.model.schedule.phase is Phase.JOINT
        for checkpoint in trainer.checkpoint_callbacks:
            if getattr(checkpoint, "monitor", None) is None:
                continue
            # The user's number, as it was before this callback changed it.
            kept = self._kept.setdefault(checkpoint, checkpoint.save_top_k)
            # 0: nothing is ranked; `last.ckpt` is written all the same.
            checkpoint.save_top_k = kept if joint else 0


def _forget_best(trainer: Trainer) -> None:
    """Let the next validation be the first one that early stopping sees."""
    for stopping in trainer.early_stopping_callbacks:
        worst = torch.tensor(torch.inf)
        stopping.wait_count = 0
        stopping.best_score = worst if stopping.monitor_op == torch.lt else -worst


def optimizer_with_scores_apart(
    params: Iterable[torch.nn.Parameter], optimizer: str, **options
) -> torch.optim.Optimizer:
    """An optimizer in which scores have no weight decay and their own learning rate.

    ESPnet3 builds optimizer and scheduler in one go from the config; the groups must be
    there before the scheduler is.

    Args:
        params: All parameters; scores have the attribute `score_lr`.
        optimizer: Dotted path of the class.
        **options: Its options.
    """
    params = list(params)
    built = get_class(optimizer)(params, **options)
    scores = [p for p in params if hasattr(p, "score_lr")]
    separate_scores(built, scores, scores[0].score_lr if scores else 1.0)
    return built


# Hydra finds functions by their path.
_APART = f"{__name__}.{optimizer_with_scores_apart.__name__}"
