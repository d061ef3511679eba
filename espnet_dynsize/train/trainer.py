"""ESPnet's trainer, told which update it is and in which phase to select models."""

import argparse
import dataclasses
import logging
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.train.reporter import Average, SubReporter
from espnet2.train.trainer import Trainer, TrainerOptions

from espnet_dynsize.control.schedule import Schedule
from espnet_dynsize.control.selection import Phase
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.keys import MODEL
from espnet_dynsize.train.crash import keep_checkpoint
from espnet_dynsize.train.criteria import check_criteria
from espnet_dynsize.train.model import JointLoss
from espnet_dynsize.train.options import PhasedTrainerOptions
from espnet_dynsize.train.resume import is_first_rank, prepare_resume


class DynSizeTrainer(Trainer):
    """Advances the subnet schedule, validates every size; else ESPnet's `Trainer`."""

    @classmethod
    def build_options(cls, args: argparse.Namespace) -> TrainerOptions:
        if args.model != MODEL:
            return super().build_options(args)
        names = [f.name for f in dataclasses.fields(TrainerOptions)]
        return PhasedTrainerOptions(**{name: getattr(args, name) for name in names})

    @classmethod
    def run(
        cls,
        model: torch.nn.Module,
        train_iter_factory: AbsIterFactory,
        trainer_options: TrainerOptions,
        **kwargs,
    ) -> None:
        """Train; see `Trainer.run`.

        Raises:
            ConfigError: the search does not fit into the run, the learning rate
                scheduler undoes `score_lr`, a criterion does not exist, or the
                checkpoint to be resumed is of another run.
        """
        if isinstance(model, JointLoss):
            # Weights may have come from a supernet (`init_param`); its masks, scores
            # and counters are another run's. A checkpoint of this run is loaded later.
            model.schedule.reset()
            updates = _total_updates(train_iter_factory, trainer_options)
            model.schedule.selection.plan(updates)
            _check_score_lr(model.schedule, kwargs["optimizers"])
            check_criteria(
                model,
                kwargs["valid_iter_factory"],
                trainer_options,
                kwargs["schedulers"],
            )
            prepare_resume(model, trainer_options, updates, kwargs)
        super().run(
            model=model,
            train_iter_factory=train_iter_factory,
            trainer_options=trainer_options,
            **kwargs,
        )

    @classmethod
    def train_one_epoch(
        cls,
        model: torch.nn.Module,
        iterator: Iterable,
        reporter: SubReporter,
        options: TrainerOptions,
        **kwargs,
    ) -> bool:
        """Train an epoch; the schedule advances before each update's first batch."""
        schedule = _schedule(model)
        if schedule is not None:
            # Called with DDP's wrapper, before ESPnet counts batches.
            iterator = _whole_updates(iterator, model, options)
            if is_first_rank():
                keep_checkpoint(Path(options.output_dir))
        invalid = super().train_one_epoch(
            model=model, iterator=iterator, reporter=reporter, options=options, **kwargs
        )
        if schedule is not None:
            _hide_search_epoch(schedule.phase, reporter, options)
            _report_layers(schedule, kwargs["summary_writer"], reporter.get_epoch())
        return invalid

    @classmethod
    def validate_one_epoch(
        cls,
        model: torch.nn.Module,
        reporter: SubReporter,
        options: TrainerOptions,
        **kwargs,
    ) -> None:
        """Validate every size."""
        super().validate_one_epoch(
            model=model, reporter=reporter, options=options, **kwargs
        )
        schedule = _schedule(model)
        if schedule is None:
            return
        _hide_search_epoch(schedule.phase, reporter, options)
        if schedule.phase is Phase.JOINT:
            schedule.joint_epochs += 1
        options.enter(schedule.phase, int(schedule.joint_epochs.item()))


def _unwrap(model: torch.nn.Module) -> torch.nn.Module:
    return getattr(model, "module", model)  # out of DistributedDataParallel


def _schedule(model: torch.nn.Module) -> Schedule | None:
    model = _unwrap(model)
    return model.schedule if isinstance(model, JointLoss) else None


def _total_updates(factory: AbsIterFactory, options: TrainerOptions) -> int | None:
    """Updates in the whole run, None where the iterator cannot tell.

    Raises:
        ConfigError: an epoch has fewer batches than an update needs.
    """
    batches = getattr(factory, "num_iters_per_epoch", None)
    if batches is None and hasattr(factory, "sampler"):
        batches = len(factory.sampler)
    if batches is None:
        return None
    if batches < options.accum_grad:
        raise ConfigError(
            f"accum_grad={options.accum_grad} must be at most {batches}, the batches "
            "of an epoch."
        )
    return options.max_epoch * (batches // options.accum_grad)


def _check_score_lr(schedule: Schedule, optimizers: list) -> None:
    """Refuse a scheduler that gives every parameter group the same rate."""
    score_lr = schedule.selection.search.score_lr
    scores = {id(p) for p in schedule.selection.selector.parameters()}
    for optimizer in optimizers:
        weights, *others = optimizer.param_groups
        for group in others:
            of_scores = any(id(p) in scores for p in group["params"])
            if of_scores and not math.isclose(
                group["lr"], score_lr * weights["lr"], rel_tol=1e-6
            ):
                raise ConfigError(
                    f"selector_conf: score_lr={score_lr} must be 1 with this "
                    "scheduler, which gives all parameters the same learning rate."
                )


def _whole_updates(
    batches: Iterable, model: torch.nn.Module, options: TrainerOptions
) -> Iterator:
    """The batches of whole updates; the schedule advances before each update.

    ESPnet would carry the gradients of an incomplete last update into the next epoch,
    where a resumed run does not have them.
    """
    update = []
    for batch in batches:
        update.append(batch)
        if len(update) == options.accum_grad:
            _unwrap(model).begin_update(options.seed)
            yield from update
            update = []


def _hide_search_epoch(
    phase: Phase, reporter: SubReporter, options: TrainerOptions
) -> None:
    """Give a search epoch the worst value of every criterion; keep the real one too."""
    if phase is Phase.JOINT:
        return
    for key, name, mode in options.hidden:
        if key == reporter.key and name in reporter.stats:
            worst = Average(math.inf if mode == "min" else -math.inf)
            # One number a batch; the epoch's value is their average.
            reporter.stats[f"search_{name}"] = reporter.stats[name]
            reporter.stats[name] = [worst] * reporter.count


def _report_layers(schedule: Schedule, summary_writer: object, epoch: int) -> None:
    """Write the layers that each size keeps to the log and to TensorBoard."""
    phase, selection = schedule.phase.name.lower(), schedule.selection
    for size, subnet in zip(selection.sizes, selection.subnets()):
        text = f"{phase} phase, size {size} keeps layers {list(subnet.kept)}"
        logging.info(text)
        if summary_writer is not None:
            summary_writer.add_text(f"layers_{size}", text, epoch)
