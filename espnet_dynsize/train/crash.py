"""Resuming after a crash at any moment, also while ESPnet was writing its files.

ESPnet overwrites `checkpoint.pth` in place and writes the epoch's model after it. So
the last complete checkpoint is kept aside, and what a crash left undone is made good
before the training is resumed.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from espnet2.train.reporter import Reporter

from espnet_dynsize.core.checkpoint import read_checkpoint
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.files import whole

CHECKPOINT = "checkpoint.pth"
PREVIOUS = "checkpoint.previous.pth"
UNREADABLE = "checkpoint.unreadable.pth"
# Of ESPnet2 and of ESPnet3
_MODELS = ("*epoch.pth", "*.ave.pth", "*.ave_*best.pth", "*.best.pth", CHECKPOINT)
_MODELS += ("*.ckpt",)


def keep_checkpoint(output_dir: Path) -> None:
    """Copy the checkpoint, which is complete now, aside."""
    if (output_dir / CHECKPOINT).exists():
        # A kill while copying leaves the one before.
        with whole(output_dir / PREVIOUS) as partial:
            shutil.copyfile(output_dir / CHECKPOINT, partial)


def models_in(output_dir: Path) -> list[str]:
    """Names of the models that a training has left."""
    return sorted(path.name for kind in _MODELS for path in output_dir.glob(kind))


@contextmanager
def config_kept(output_dir: Path) -> Iterator[None]:
    """Undo what ESPnet makes of a model's config where no epoch ends inside the block.

    ESPnet writes it before it knows whether the run can go on, and also where it
    only tries the options (`dry_run`) or collects statistics.
    """
    config, checkpoint = output_dir / "config.yaml", output_dir / CHECKPOINT
    trained = config.is_file() and models_in(output_dir)
    before = config.read_bytes() if trained else None
    written = _modified(checkpoint)
    try:
        yield
    finally:
        if before is not None and _modified(checkpoint) == written:
            with whole(config) as partial:
                partial.write_bytes(before)


def _modified(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def load_checkpoint(output_dir: Path, mend: bool = True) -> dict | None:
    """The checkpoint to resume, None where training has to begin.

    One that is missing or cannot be read is replaced by the one before it. Where there
    is none before it and no epoch has ended, the first one was being written; it is set
    aside.

    Args:
        output_dir: Of the run.
        mend: Do so; else only one that can be read is.

    Raises:
        ConfigError: neither can be read, though epochs have ended.
    """
    path, previous = output_dir / CHECKPOINT, output_dir / PREVIOUS
    epochs = sorted(file.name for file in output_dir.glob("*epoch.pth"))
    if not (path.exists() or previous.exists() or epochs):
        return None
    try:
        return _read(path)
    except ConfigError as error:
        if not mend:
            raise
        why = error
    try:
        states = _read(previous)
    except ConfigError:
        if epochs:
            raise ConfigError(
                f"resume: {why.args[0].rstrip('.')}, nor is there a {PREVIOUS}, but "
                f"there is {epochs[-1]}: use another output_dir, or move what is there."
            ) from why
        logging.warning(f"{why} Training begins anew.")
        if path.exists():
            path.rename(output_dir / UNREADABLE)
        return None
    logging.warning(f"{why} Training goes on from {previous}.")
    # ESPnet resumes from this name.
    os.replace(previous, path)
    return states


def _read(path: Path) -> dict:
    """A checkpoint of ESPnet's trainer.

    Raises:
        ConfigError: it is none.
    """
    states = read_checkpoint(path)
    keys = {"model", "reporter", "optimizers", "schedulers"}
    if not isinstance(states, dict) or not keys <= states.keys():
        raise ConfigError(f"checkpoint {path} is not one of ESPnet's trainer.")
    return states


def finish_epoch(
    output_dir: Path, states: dict, criteria: Sequence[tuple[str, str, str]]
) -> None:
    """Write the model and the links of the checkpoint's epoch where they are missing.

    Args:
        output_dir: Experiment folder.
        states: The checkpoint.
        criteria: (phase, statistic, mode) by which the best models are chosen.
    """
    # ESPnet writes checkpoint, model, `latest.pth` and the best ones' links in this
    # order: all but the checkpoint may be missing, and the model may be cut.
    reporter = Reporter()
    reporter.load_state_dict(states["reporter"])
    epoch = reporter.get_epoch()
    model = output_dir / f"{epoch}epoch.pth"
    if not _readable(model):
        torch.save(states["model"], model)
    _link(output_dir / "latest.pth", model.name)
    for phase, name, mode in criteria:
        if reporter.has(phase, name):
            best = reporter.get_best_epoch(phase, name, mode)
            _link(output_dir / f"{phase}.{name}.best.pth", f"{best}epoch.pth")


def _readable(path: Path) -> bool:
    try:
        read_checkpoint(path)
    except ConfigError:
        return False
    return True


def _link(path: Path, target: str) -> None:
    if path.is_symlink() and os.readlink(path) == target:
        return
    path.unlink(missing_ok=True)
    path.symlink_to(target)
