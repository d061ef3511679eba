"""ESPnet's trainer, told which update it is and in which phase to select models."""

import argparse
import dataclasses
import logging
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.train.reporter import Average, SubReporter, aggregate
from espnet2.train.trainer import Trainer, TrainerOptions

from espnet_dynsize.control.schedule import Schedule
from espnet_dynsize.control.selection import Phase
from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.core.keys import MODEL
from espnet_dynsize.train.check import check_lasts
from espnet_dynsize.train.crash import keep_checkpoint
from espnet_dynsize.train.criteria import check_criteria
from espnet_dynsize.train.forgetting import Thinned, check_goes_on
from espnet_dynsize.train.model import JointLoss
from espnet_dynsize.train.options import PhasedTrainerOptions
from espnet_dynsize.train.ranks import is_first_rank
from espnet_dynsize.train.resume import prepare_resume
from espnet_dynsize.train.scores import check_score_lr


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
                scheduler undoes `score_lr` or ends before the run, a criterion does not
                exist, or the checkpoint to be resumed is of another run; after a run
                whose length was not known, the search has not ended.
        """
        if isinstance(model, JointLoss):
            # Weights may have come from a supernet (`init_param`); its masks, scores
            # and counters are another run's. A checkpoint of this run is loaded later.
            model.schedule.reset()
            updates = _total_updates(train_iter_factory, trainer_options)
            model.schedule.plan(updates)
            check_score_lr(model.schedule.selection, kwargs["optimizers"])
            check_lasts(kwargs["schedulers"], updates)
            check_criteria(
                model,
                kwargs["valid_iter_factory"],
                trainer_options,
                kwargs["schedulers"],
            )
            prepare_resume(model, trainer_options, updates, kwargs)
            folder, epochs = Path(trainer_options.output_dir), trainer_options.max_epoch
            check_goes_on(model.ledger, folder)
            if model.ledger is not None:
                train_iter_factory = Thinned(
                    train_iter_factory, model.ledger, epochs, folder
                )
        super().run(
            model=model,
            train_iter_factory=train_iter_factory,
            trainer_options=trainer_options,
            **kwargs,
        )
        if isinstance(model, JointLoss) and model.schedule.phase is Phase.SEARCH:
            raise ConfigError(
                f"max_epoch={trainer_options.max_epoch}: the run has ended after "
                f"{model.schedule.now} updates, but its family is chosen in the first "
                f"{model.schedule.last_decision}: no size is final; resume it for more "
                "epochs."
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
        """Train an epoch; the schedule advances before each update's first batch.

        Raises:
            ConfigError: there has been no update.
        """
        schedule = _schedule(model)
        before = 0 if schedule is None else schedule.now
        if schedule is not None:
            # Called with DDP's wrapper, before ESPnet counts batches.
            iterator = _whole_updates(iterator, model, options)
            if is_first_rank():
                keep_checkpoint(Path(options.output_dir))
        invalid = super().train_one_epoch(
            model=model, iterator=iterator, reporter=reporter, options=options, **kwargs
        )
        if schedule is not None:
            # Of an iterator without a length it is only known now.
            allowed = "at most the batches of an epoch: one has ended without an update"
            check(schedule.now > before, "accum_grad", options.accum_grad, allowed)
            _hide_epoch(schedule.phase, reporter, options)
            ledger = _unwrap(model).ledger
            if ledger is not None:
                ledger.end_epoch(reporter.get_epoch(), Path(options.output_dir))
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
        hidden = _hide_epoch(schedule.phase, reporter, options)
        if schedule.phase is Phase.JOINT and not hidden:
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


def _hide_epoch(phase: Phase, reporter: SubReporter, options: TrainerOptions) -> bool:
    """Give an epoch that must not be chosen the worst value of every criterion.

    One of the search, whose real values are kept under other names; and one whose
    values are not numbers, which ESPnet would sort anywhere among the others.

    Returns:
        Whether anything was hidden.
    """
    hidden = False
    for key, name, mode in options.hidden:
        if key != reporter.key or name not in reporter.stats:
            continue
        values = reporter.stats[name]
        if phase is Phase.JOINT and not math.isnan(aggregate(values)):
            continue
        worst = Average(math.inf if mode == "min" else -math.inf)
        # One number a batch; the epoch's value is their average.
        reporter.stats[f"search_{name}"] = values
        reporter.stats[name] = [worst] * reporter.count
        hidden = True
    return hidden


def _report_layers(schedule: Schedule, summary_writer: object, epoch: int) -> None:
    """Write the layers that each size keeps to the log and to TensorBoard."""
    phase, selection = schedule.phase.name.lower(), schedule.selection
    for size, subnet in zip(selection.sizes, selection.subnets()):
        text = f"{phase} phase, size {size} keeps layers {list(subnet.kept)}"
        logging.info(text)
        if summary_writer is not None:
            summary_writer.add_text(f"layers_{size}", text, epoch)
