"""Resuming after a crash at any moment, also while ESPnet was writing its files.

ESPnet overwrites `checkpoint.pth` in place and writes the epoch's model after it. So
the last complete checkpoint is kept aside, and what a crash left undone is made good
before the training is resumed.
"""

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from espnet2.torch_utils.safe_torch_load import safe_torch_load
from espnet2.train.reporter import Reporter

from espnet_dynsize.core.errors import ConfigError

CHECKPOINT = "checkpoint.pth"
PREVIOUS = "checkpoint.previous.pth"


def keep_checkpoint(output_dir: Path) -> None:
    """Copy the checkpoint, which is complete now, aside."""
    if (output_dir / CHECKPOINT).exists():
        partial = output_dir / f"{PREVIOUS}.partial"
        shutil.copyfile(output_dir / CHECKPOINT, partial)
        # Whole or not at all: a kill while copying leaves the one before.
        os.replace(partial, output_dir / PREVIOUS)


def load_checkpoint(output_dir: Path) -> dict | None:
    """The checkpoint to resume, None where there is none.

    One that cannot be read is replaced by the one before it.

    Raises:
        ConfigError: it cannot be read, and there is none before it.
    """
    path, previous = output_dir / CHECKPOINT, output_dir / PREVIOUS
    if not path.exists():
        return None
    try:
        return safe_torch_load(path, map_location="cpu")
    except Exception as error:  # what torch raises depends on where the file ends
        if not previous.exists():
            raise ConfigError(
                f"resume: {path} cannot be read, and there is no {PREVIOUS}; remove "
                "it to begin anew."
            ) from error
        logging.warning(f"{path} is incomplete ({error}); resuming from {previous}.")
    # Read before it is moved: it may be cut, too, and then both files stay.
    states = safe_torch_load(previous, map_location="cpu")
    # ESPnet resumes from this name.
    os.replace(previous, path)
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
        safe_torch_load(path, map_location="cpu")
    except Exception:
        return False
    return True


def _link(path: Path, target: str) -> None:
    if path.is_symlink() and os.readlink(path) == target:
        return
    path.unlink(missing_ok=True)
    path.symlink_to(target)
