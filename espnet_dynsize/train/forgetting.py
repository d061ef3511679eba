"""Training on fewer utterances: those that are never forgotten are left out.

After MEST's data efficiency (arXiv 2110.14032, section 3.3) and Toneva et al. (arXiv
1812.05159): an utterance is forgotten where it has been right at one presentation and
is wrong at the next.
"""

import json
import logging
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import editdistance
import torch
from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.iterators.sequence_iter_factory import SequenceIterFactory
from espnet2.samplers.abs_sampler import AbsSampler

from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.core.files import whole
from espnet_dynsize.core.schema import Share, check_options
from espnet_dynsize.train.ranks import is_first_rank

KEY = "model_conf: forgetting"
FILES = "forgetting"  # folder in that of a run


@dataclass(frozen=True)
class Forgetting:
    """Which utterances are left out, and when: the options of `forgetting`.

    Args:
        drop: The share of the utterances that is left out: the least forgotten ones.
            Those that have never been right stay. There are as many updates as with all
            of them, of smaller batches.
        drop_at: The part of the run after which.
        threshold: An utterance is right if the full network's greedy CTC output has at
            most this share of errors, in tokens: the CER, where these are characters.
        resample: Draw anew in every epoch, the less forgotten the more likely.
    """

    drop: Share = 0.24
    drop_at: Share = 0.4375
    threshold: Share = 0.1
    resample: bool = False


@dataclass
class History:
    """How often an utterance has been forgotten.

    Args:
        right: Whether it was right when it was last seen.
        ever: Whether it has been right.
        times: How often it has been forgotten.
    """

    right: bool = False
    ever: bool = False
    times: int = 0

    def see(self, right: bool) -> None:
        """Note a presentation."""
        self.times += self.right and not right
        self.ever |= right
        self.right = right

    @property
    def forgotten(self) -> float:
        """How often; infinitely, where it has never been right."""
        return self.times if self.ever else math.inf


class Ledger:
    """The histories of all utterances, in files beside the checkpoints.

    Args:
        conf: The options, see `Forgetting`.

    Raises:
        ConfigError: an option is not allowed.
    """

    def __init__(self, conf: dict):
        check_options(KEY, conf, "forgetting", Forgetting)
        self.options = Forgetting(**conf)
        self.histories: dict[str, History] = {}
        self.dropped: set[str] = set()
        self.epoch = 0
        self._changed: set[str] = set()

    def observe(self, utterances: Sequence[str], errors: Sequence[float]) -> None:
        """Note a batch.

        Args:
            utterances: Their names.
            errors: The share of errors of each.
        """
        for name, rate in zip(utterances, errors):
            history = self.histories.setdefault(name, History())
            history.see(rate <= self.options.threshold)
            self._changed.add(name)

    def begin_epoch(self, epoch: int, last: int, folder: Path, seed: int) -> None:
        """Decide who is left out; every rank decides the same.

        Args:
            epoch: Counted from 1.
            last: Of the run.
            folder: Of the run.
            seed: Of the run.

        Raises:
            ConfigError: the file of the epoch before is not there.
        """
        if self.epoch != epoch - 1:  # of a resumed run
            self._read(folder, epoch - 1)
        first = math.ceil(round(self.options.drop_at * last, 9)) + 1
        begins = epoch >= first and (self.options.resample or not self.dropped)
        if begins:
            self.dropped = self._drawn(random.Random(f"{seed} {epoch}"))
            times = [self.histories[name].forgotten for name in self.dropped]
            logging.info(
                f"forgetting: from epoch {epoch} on, {len(self.dropped)} of "
                f"{len(self.histories)} utterances are left out; they were forgotten "
                f"at most {max(times, default=0)} times; see {_path(folder, epoch)}."
            )

    def _drawn(self, dice: random.Random) -> set[str]:
        # In the order of their names: that of presentations is another one on each rank
        known = sorted(n for n, history in self.histories.items() if history.ever)
        number = int(self.options.drop * len(self.histories) + 1e-9)
        draws = {name: dice.random() for name in known}
        times = {name: self.histories[name].times for name in known}
        if self.options.resample:
            # Without replacement, each with a chance of 1 / (1 + times): the largest
            # u ** (1 + times) (Efraimidis and Spirakis, 2006)
            order = {n: -(draws[n] ** (1 + times[n])) for n in known}
        else:
            order = {n: (times[n], draws[n]) for n in known}
        return set(sorted(known, key=order.get)[:number])

    def end_epoch(self, epoch: int, folder: Path) -> None:
        """Put together what the ranks have seen, and write it to a file."""
        changed = {name: self.histories[name] for name in self._changed}
        self._changed.clear()
        if torch.distributed.is_initialized():
            parts: list = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, changed)
            for part in parts:
                self.histories |= part
        self.epoch = epoch
        if is_first_rank():
            self._write(folder, epoch)

    def _write(self, folder: Path, epoch: int) -> None:
        path = _path(folder, epoch)
        path.parent.mkdir(exist_ok=True)
        content = {
            "options": asdict(self.options),
            "dropped": sorted(self.dropped),
            "utterances": {n: asdict(h) for n, h in sorted(self.histories.items())},
        }
        with whole(path) as partial:
            partial.write_text(json.dumps(content))
        # That of the epoch before: a run may be killed before its checkpoint is written
        _path(folder, epoch - 2).unlink(missing_ok=True)

    def _read(self, folder: Path, epoch: int) -> None:
        path = _path(folder, epoch)
        try:
            content = json.loads(path.read_text())
            began = Forgetting(**content["options"])
            histories = {n: History(**h) for n, h in content["utterances"].items()}
            self.dropped = set(content["dropped"])
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(
                f"resume: {path} cannot be read, which says how often utterances were "
                f"forgotten ({KEY}); use another output_dir."
            ) from error
        same, allowed = began == self.options, f"as the run began: {asdict(began)}"
        check(same, f"resume: {KEY}", asdict(self.options), allowed)
        self.histories, self.epoch = histories, epoch


def _path(folder: Path, epoch: int) -> Path:
    return folder / FILES / f"{epoch}epoch.json"


def error_rates(
    best: torch.Tensor,
    lengths: torch.Tensor,
    text: torch.Tensor,
    text_lengths: torch.Tensor,
    blank: int,
) -> list[float]:
    """The errors of each greedy CTC output, as a share of the text's tokens.

    Args:
        best: The likeliest token of each frame [B, T].
        lengths: Of the outputs [B].
        text: [B, U].
        text_lengths: [B].
        blank: CTC's.
    """
    rates = []
    for row, frames, right, tokens in zip(
        best.tolist(), lengths.tolist(), text.tolist(), text_lengths.tolist()
    ):
        row = [blank, *row[:frames]]
        said = [b for a, b in zip(row, row[1:]) if b not in (a, blank)]
        errors = editdistance.eval(said, right[:tokens])
        rates.append(errors / max(tokens, 1))
    return rates


class Thinned(AbsIterFactory):
    """ESPnet's iterators, without the utterances that are left out.

    Args:
        factory: ESPnet's.
        ledger: Knows who is left out.
        last: The last epoch.
        folder: Of the run.

    Raises:
        ConfigError: the factory does not take batches from a sampler.
    """

    def __init__(
        self, factory: AbsIterFactory, ledger: Ledger, last: int, folder: Path
    ):
        kind = type(factory).__name__
        allowed = "that of iterator_type: sequence"
        good = isinstance(factory, SequenceIterFactory)
        check(good, f"{KEY}: the iterator", kind, allowed)
        # It would cut all utterances into batches as large as the first one.
        mixed, allowed = factory.shuffle_within_batch, "false with forgetting"
        check(not mixed, "shuffle_within_batch", mixed, allowed)
        self.factory, self.ledger = factory, ledger
        self.last, self.folder = last, folder
        factory.sampler = Kept(factory.sampler, ledger)

    def build_iter(self, epoch: int, shuffle: bool | None = None):
        """See `SequenceIterFactory.build_iter`."""
        self.ledger.begin_epoch(epoch, self.last, self.folder, self.factory.seed)
        return self.factory.build_iter(epoch, shuffle)


class Kept(AbsSampler):
    """The batches of a sampler, without the utterances that are left out.

    Args:
        batches: The sampler.
        ledger: Knows who is left out.
    """

    def __init__(self, batches: AbsSampler, ledger: Ledger):
        self.batches, self.ledger = batches, ledger

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        return iter(self.generate(0))

    def generate(self, seed: int) -> list[tuple]:
        """See `AbsSampler.generate`."""
        return [self._kept(batch) for batch in self.batches.generate(seed)]

    def _kept(self, batch: Sequence[str]) -> tuple:
        dropped, histories = self.ledger.dropped, self.ledger.histories
        left = tuple(name for name in batch if name not in dropped)
        # There is an update for every batch: the most forgotten of one stays.
        return left or (max(batch, key=lambda name: histories[name].forgotten),)


def check_goes_on(ledger: Ledger | None, folder: Path) -> None:
    """Refuse to go on with all utterances where some may have left.

    Args:
        ledger: Of the run that begins, or goes on.
        folder: Of the run.

    Raises:
        ConfigError: there is no ledger, but the folder has one's files.
    """
    if ledger is None and (folder / FILES).is_dir():
        raise ConfigError(
            f"{KEY} must be there, as the run in {folder} began with it: its files are "
            f"in {folder / FILES}."
        )


def checked(conf: Mapping | None, has_ctc: bool) -> Ledger | None:
    """The ledger of `model_conf: forgetting`; None without.

    Raises:
        ConfigError: an option is not allowed, or the model has no CTC output.
    """
    if conf is None:
        return None
    if not has_ctc:
        raise ConfigError(f"{KEY} needs CTC: ctc_weight above 0.")
    return Ledger(conf)
