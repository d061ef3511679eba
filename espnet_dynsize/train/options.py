"""ESPnet's trainer options, in which search epochs do not choose models."""

import dataclasses

from espnet2.train.trainer import TrainerOptions

from espnet_dynsize.control.selection import Phase


@dataclasses.dataclass
class PhasedTrainerOptions(TrainerOptions):
    """ESPnet's options; model selection is off while searching.

    The trainer reads `best_model_criterion`, `keep_nbest_models`, `patience` and
    `val_scheduler_criterion` anew every epoch. So best models, averages and early
    stopping see joint epochs only, and learning-rate schedulers see every epoch.
    """

    def __post_init__(self):
        nbest = self.keep_nbest_models
        self._nbest = [nbest] if isinstance(nbest, int) else list(nbest) or [1]
        self.criteria = [tuple(c) for c in self.best_model_criterion]  # as configured
        self.patience_wanted = self.patience
        self.scheduler_wanted = list(self.val_scheduler_criterion)
        # The trainer keeps the lists that it is given: they are changed in place.
        self.best_model_criterion = []
        self.keep_nbest_models = list(self._nbest)
        self.enter(Phase.SEARCH, 0)

    @property
    def hidden(self) -> list[tuple[str, str, str]]:
        """Criteria in which search epochs must not count: (phase, name, mode)."""
        # Each number once: hidden with both modes, it would be the best of one of them.
        # Without patience nothing stops by the first of these, so the others count.
        wanted = [tuple(self.early_stopping_criterion), *self.criteria]
        modes = {(phase, name): mode for phase, name, mode in wanted}
        return [(phase, name, mode) for (phase, name), mode in modes.items()]

    def enter(self, phase: Phase, joint_epochs: int) -> None:
        """Set model selection for an epoch of `phase`.

        Args:
            phase: Phase at the end of the epoch.
            joint_epochs: How many epochs have ended in the joint phase; no average
                can be over more.
        """
        joint = phase is Phase.JOINT
        # Without criteria there is no best model and no average, and only the latest
        # epoch is kept.
        self.best_model_criterion[:] = self.criteria if joint else []
        # ESPnet asks for it before the first epoch of a resumed run, too.
        self.patience = self.patience_wanted if joint else None
        # ESPnet averages the n best of all epochs; those of the search are infinitely
        # bad, but would be taken where there are fewer than n others.
        most = max(joint_epochs, 1)
        self.keep_nbest_models[:] = [min(n, most) for n in self._nbest]
        key, name = self.scheduler_wanted[:2]
        # Where the scheduler's criterion is hidden, its real value has another name.
        seen = {(k, n) for k, n, _ in self.hidden}
        real = name if joint or (key, name) not in seen else f"search_{name}"
        self.val_scheduler_criterion = [key, real]
