"""Training supernets with ESPnet3 (Lightning)."""

from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from espnet_dynsize.errors import ConfigError
from espnet_dynsize.selection.schedule import Phase


class SubnetScheduleCallback(Callback):
    """Advances the subnet schedule by one with every optimiser step.

    In an ESPnet3 `training.yaml`:

        task: espnet_dynsize.task.DynSizeASRTask
        trainer:
          callbacks:
            - _target_: espnet_dynsize.espnet3.SubnetScheduleCallback
              seed: 0

    While searching, no checkpoint counts as one of the best, so averages are over the
    joint phase only. The schedule is in the model's state: `fit: {ckpt_path: last}`
    goes on where the run stopped.

    Args:
        seed: From it and the update's number follows which subnets are drawn.
    """

    def __init__(self, seed: int = 0):
        self.seed = seed
        self._kept: dict[ModelCheckpoint, int] = {}

    def setup(self, trainer, pl_module, stage) -> None:
        """Check the model.

        Raises:
            ConfigError: it is not a supernet, or `score_lr` is set, which ESPnet3's
                optimizer cannot do.
        """
        schedule = getattr(pl_module.model, "schedule", None)
        if schedule is None:
            raise ConfigError(
                "SubnetScheduleCallback needs model: dynsize with a supernet encoder."
            )
        if schedule.score_lr != 1.0:
            raise ConfigError(
                f"selector_conf: score_lr={schedule.score_lr} must be 1 with ESPnet3, "
                "whose optimizer has one learning rate."
            )

    def on_train_start(self, trainer, pl_module) -> None:
        """Fix the length of the search.

        Raises:
            ConfigError: the search does not fit into the run.
        """
        updates = trainer.estimated_stepping_batches
        schedule = pl_module.model.schedule
        schedule.plan(int(updates) if updates < float("inf") else None)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        """Advance before an update's first batch."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            pl_module.model.begin_update(self.seed)

    def on_validation_start(self, trainer, pl_module) -> None:
        """Let checkpoints be ranked in the joint phase only."""
        joint = pl_module.model.schedule.phase is Phase.JOINT
        for checkpoint in trainer.checkpoint_callbacks:
            if getattr(checkpoint, "monitor", None) is None:
                continue
            kept = self._kept.setdefault(checkpoint, checkpoint.save_top_k)
            checkpoint.save_top_k = kept if joint else 0
