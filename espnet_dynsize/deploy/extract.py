"""Cut one size out of a trained supernet."""

import copy
import inspect
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_dynsize.deploy import origin
from espnet_dynsize.deploy.experiment import (
    build_model,
    family_sizes,
    load_model,
    load_states,
    read_config,
    write_config,
)
from espnet_dynsize.deploy.stock import to_stock
from espnet_dynsize.errors import ConfigError
from espnet_dynsize.model import DynSizeASRModel

_FAMILY_KEYS = (
    "sizes",
    "budgets",
    "selector",
    "selector_conf",
    "layer_drop_joint",
    "layer_drop_search",
    "norm_per_size",
    "subnet",
)


class Extracted(NamedTuple):
    """A model of one size on disk."""

    directory: Path
    size: int
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
    model, config = load_model(asr_exp, model_file)
    schedule = getattr(model, "schedule", None)
    if schedule is None:
        raise ConfigError(f"asr_exp={asr_exp} is not a supernet with sizes.")
    sizes = list(sizes) or list(schedule.sizes)
    suffix = "_stock" if format == "stock" else ""
    targets = [
        asr_exp.with_name(f"{asr_exp.name}_size{size}{suffix}") for size in sizes
    ]
    for target in targets:
        if target.exists():
            raise ConfigError(f"output folder {target} exists; remove or rename it.")
    for size in sizes:
        schedule.subnet(size)  # raises before anything is written
    made, digest = [], origin.digest(asr_exp, model_file)
    for size, target in zip(sizes, targets):
        _write_swap(asr_exp, config, size)
        record = origin.describe(asr_exp, model_file, digest, size, schedule.sizes)
        made.append(_write(model, config, size, target, model_file, format, record))
    return made


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


def _free_name(folder: Path) -> Path:
    names = (folder.with_name(f"old{n}_{folder.name}") for n in itertools.count(1))
    return next(name for name in names if not name.exists())


def _write_swap(asr_exp: Path, config: dict, size: int) -> None:
    swapped = {**config, "encoder_conf": {**config["encoder_conf"], "subnet": size}}
    write_config(asr_exp / f"config_size{size}.yaml", swapped)


def _write(model, config, size, target, model_file, format, record) -> Extracted:
    small_config, states = subnet_states(model, config, size)
    units = small_config["encoder_conf"].get("granularity", "layer") + "s"
    kept = sum(model.schedule.subnet(size).mask)
    note = f"{kept} {units} kept, the others deleted"
    if format == "stock":
        small_config, states, note = to_stock(small_config, states)
    load_states(build_model(small_config), states, f"size {size}")
    unfinished = target.with_name(f"{target.name}.unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    write_config(unfinished / "config.yaml", small_config)
    torch.save(states, unfinished / model_file)
    origin.write(unfinished, record)
    unfinished.rename(target)
    return Extracted(target, size, note)


def subnet_states(model: ESPnetASRModel, config: dict, size: int):
    """Config and state dict of the model that holds only `size`'s layers.

    Raises:
        ConfigError: the size has no fixed mask.
    """
    mask = model.schedule.subnet(size).mask
    kept = [i for i, keep in enumerate(mask) if keep]
    small_config = copy.deepcopy(config)
    encoder_conf = small_config["encoder_conf"]
    for key in _FAMILY_KEYS:
        encoder_conf.pop(key, None)
    key = f"keep_{encoder_conf.get('granularity', 'layer')}s"
    encoder_conf[key] = kept
    small_config["model"] = "espnet"
    for option in inspect.signature(DynSizeASRModel).parameters:
        small_config["model_conf"].pop(option, None)
    small_config["init"] = None
    small = build_model(config)  # modules that have been trained cannot be copied
    load_states(small, model.state_dict(), "the supernet")
    small.encoder.keep_units(kept, key)
    states = _rename_sized(small, size)
    wanted = build_model(small_config).state_dict()
    return small_config, {name: states[name] for name in wanted}


def _rename_sized(model: ESPnetASRModel, size: int) -> dict:
    """The state dict with this size's output layer and statistics under stock names."""
    states = dict(model.state_dict())
    for name in list(states):
        prefix, _, tail = name.partition(f".by_size.{size}.")
        if tail:
            states[f"{prefix}.{tail}"] = states[name]
    return states
