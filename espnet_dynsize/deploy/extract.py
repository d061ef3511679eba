"""Folders of one subnet each, cut out of a trained supernet."""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.core.keys import family_sizes, with_size
from espnet_dynsize.core.subnet import Subnet
from espnet_dynsize.deploy import origin
from espnet_dynsize.deploy.cut import cut
from espnet_dynsize.deploy.experiment import (
    build_model,
    load_model,
    load_states,
    read_config,
    write_config,
)
from espnet_dynsize.deploy.formats.plugin import to_plugin
from espnet_dynsize.deploy.formats.stock import to_stock
from espnet_dynsize.train.model import JointLoss

FORMATS = {"plugin": to_plugin, "stock": to_stock}


class Extracted(NamedTuple):
    """A cut model on disk."""

    directory: Path
    name: str  # the size, or the name of the subnet
    note: str  # what became of the dropped layers


def extract(
    asr_exp: Path, model_file: str, sizes: Sequence[int], format: str = "plugin"
) -> list[Extracted]:
    """Write `<asr_exp>_size<size>/{config.yaml,<model_file>}` for every size.

    `<asr_exp>/config_size<size>.yaml` is written, too: with it in place of config.yaml,
    the supernet's own checkpoint computes as that size.

    Args:
        asr_exp: Folder of a trained supernet.
        model_file: Checkpoint in it, from the joint phase.
        sizes: Which sizes; empty for the whole family.
        format: `plugin` (only the kept layers exist) or `stock` (opens in ESPnet
            without the plugin; the folder ends in `_stock`).

    Raises:
        ConfigError: the folder or checkpoint cannot be used, a size is not in the
            family, or an output folder exists.
    """
    asr_exp = Path(asr_exp)
    model, config = _supernet(asr_exp, model_file)
    sizes = list(sizes) or list(model.schedule.selection.sizes)
    # All are asked for, and may be refused, before anything is written.
    subnets = [model.subnet(size) for size in sizes]
    targets = [_target(asr_exp, f"size{size}", format) for size in sizes]
    digest = origin.digest(asr_exp, model_file)
    extracted = []
    for size, subnet, target in zip(sizes, subnets, targets):
        # One line differs from config.yaml: the checkpoint is the supernet's own.
        write_config(asr_exp / f"config_size{size}.yaml", with_size(config, size))
        record = origin.describe(asr_exp, model_file, digest, subnet)
        record |= dict(size=size, family=list(model.schedule.selection.sizes))
        states = cut(model, config, subnet)
        note = _write(target, model_file, *states, format, record)
        extracted.append(Extracted(target, str(size), note))
    return extracted


def extract_subnet(
    asr_exp: Path,
    model_file: str,
    subnet: Subnet,
    name: str,
    format: str = "plugin",
    audio: Iterable[torch.Tensor] | None = None,
) -> Extracted:
    """Write `<asr_exp>_<name>/` with a model that holds only what `subnet` uses.

    Args:
        asr_exp: Folder of a trained supernet.
        model_file: Checkpoint in it, from the joint phase.
        subnet: Any subnet of the encoder.
        name: What the folder's name ends in.
        format: See `extract`.
        audio: Inputs on which batch-norm statistics are measured anew, see `cut`.

    Raises:
        ConfigError: see `cut`, or the output folder exists.
    """
    asr_exp = Path(asr_exp)
    good = name.replace("_", "").replace("-", "").isalnum()
    check(good, "subnet", name, "a file whose name is of letters, digits, _ and -")
    target = _target(asr_exp, name, format)
    model, config = _supernet(asr_exp, model_file)
    digest = origin.digest(asr_exp, model_file)
    record = origin.describe(asr_exp, model_file, digest, subnet)
    states = cut(model, config, subnet, audio)
    note = _write(target, model_file, *states, format, record)
    return Extracted(target, name, note)


def extract_changed(
    asr_exp: Path, model_file: str, sizes: Sequence[int] = ()
) -> dict[int, Path]:
    """The folders of `sizes` (empty: all), extracted now where they have to be.

    One that was cut out of another checkpoint is renamed to `old<n>_<name>` first.
    """
    sizes = list(sizes) or family_sizes(read_config(asr_exp))
    folders = {s: asr_exp.with_name(f"{asr_exp.name}_size{s}") for s in sizes}
    missing = []
    for size, folder in folders.items():
        record = origin.read(folder)
        if record is not None and record["sha256"] != origin.digest(
            asr_exp, model_file
        ):
            folder.rename(_free_name(folder))
        if not (folder / model_file).exists():
            missing.append(size)
    if missing:
        extract(asr_exp, model_file, missing)
    return folders


def _supernet(asr_exp: Path, model_file: str) -> tuple[JointLoss, dict]:
    model, config = load_model(asr_exp, model_file)
    if not isinstance(model, JointLoss):
        raise ConfigError(f"asr_exp={asr_exp} is not a supernet with sizes.")
    return model, config


def _target(asr_exp: Path, name: str, format: str) -> Path:
    suffix = "_stock" if format == "stock" else ""
    target = asr_exp.with_name(f"{asr_exp.name}_{name}{suffix}")
    if target.exists():
        raise ConfigError(f"output folder {target} exists; remove or rename it.")
    return target


def _free_name(folder: Path) -> Path:
    names = (folder.with_name(f"old{n}_{folder.name}") for n in itertools.count(1))
    return next(name for name in names if not name.exists())


def _write(
    target: Path, model_file: str, config: dict, states: dict, format: str, record: dict
) -> str:
    """Write the folder, whole or not at all; returns a note on what was done."""
    config, states, note = FORMATS[format](config, states)
    # What is written can be opened: found out before it is.
    load_states(build_model(config), states, target.name)
    unfinished = target.with_name(f"{target.name}.unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    write_config(unfinished / "config.yaml", config)
    torch.save(states, unfinished / model_file)
    origin.write(unfinished, record)
    unfinished.rename(target)
    return note
