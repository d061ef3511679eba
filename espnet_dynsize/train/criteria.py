"""The statistics that choose models exist: found out before training, not after it."""

from collections.abc import Sequence

import torch
from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.schedulers.abs_scheduler import AbsScheduler, AbsValEpochStepScheduler
from espnet2.torch_utils.device_funcs import to_device
from espnet2.train.trainer import TrainerOptions

from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.train.model import JointLoss

_REPORTS = {
    "train": "training always reports",
    "valid": "validation reports",
}


@torch.no_grad()
def check_criteria(
    model: JointLoss,
    factory: AbsIterFactory,
    options: TrainerOptions,
    schedulers: Sequence[AbsScheduler | None],
) -> None:
    """Refuse criteria that validation would not report.

    ESPnet finds out at the end of the first epoch that is ranked: here, after the
    search. One validation batch says what there is.

    Args:
        model: About to be trained.
        factory: Makes validation batches.
        options: Name the criteria.
        schedulers: Of the learning rate.

    Raises:
        ConfigError: one does not exist.
    """
    named = [("best_model_criterion", *c[:2]) for c in options.criteria]
    if options.patience_wanted is not None:
        named.append(
            ("early_stopping_criterion", *options.early_stopping_criterion[:2])
        )
    if any(isinstance(s, AbsValEpochStepScheduler) for s in schedulers):
        named.append(("val_scheduler_criterion", *options.scheduler_wanted[:2]))
    for key, phase, name in named:
        check(phase in _REPORTS, key, [phase, name], "of train or valid")
    training = model.training
    model.eval()
    _, batch = next(iter(factory.build_iter(1)))
    _, stats, _ = model(**to_device(batch, "cuda" if options.ngpu > 0 else "cpu"))
    model.train(training)
    for key, phase, name in named:
        # Which sizes an epoch's training reports, and what of them, changes.
        allowed = stats if phase == "valid" else ("loss",)
        if name not in allowed:
            raise ConfigError(
                f"{key}: [{phase}, {name}] must be one of what {_REPORTS[phase]}: "
                f"{', '.join(sorted(allowed))}."
            )
