"""Folders of one subnet each, cut out of a trained supernet."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from espnet_dynsize.core.checkpoint import read_states
from espnet_dynsize.core.compact import pack_states
from espnet_dynsize.core.context import Context
from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.core.files import (
    check_absent,
    check_replaceable,
    new_folder,
    plain_path,
    write_text,
)
from espnet_dynsize.core.keys import is_family
from espnet_dynsize.core.located import as_named
from espnet_dynsize.core.members import Member, family_members, with_member
from espnet_dynsize.core.pattern import Pattern
from espnet_dynsize.core.subnet import Subnet
from espnet_dynsize.deploy import origin
from espnet_dynsize.deploy.calibrate import inputs
from espnet_dynsize.deploy.cut import cut, patterns
from espnet_dynsize.deploy.experiment import (
    build_model,
    config_text,
    find_checkpoint,
    load_model,
    load_states,
    read_config,
)
from espnet_dynsize.deploy.formats.plugin import to_plugin
from espnet_dynsize.deploy.formats.stock import to_stock
from espnet_dynsize.train.model import JointLoss

FORMATS = {"plugin": to_plugin, "stock": to_stock}


class Extracted(NamedTuple):
    """A cut model on disk."""

    directory: Path
    name: str  # of the member, or of the subnet
    note: str  # what became of the dropped layers


def extract(
    asr_exp: Path,
    model_file: str,
    names: Sequence[int | str | Member],
    format: str = "plugin",
    done: Callable[[Extracted], object] = lambda extracted: None,
    context: str | None = None,
) -> list[Extracted]:
    """Write `<asr_exp>_size<size>/{config.yaml,<model_file>}` for every size.

    Of a sparse member `<asr_exp>_sparsity<per cent>/`, or
    `<asr_exp>_size<size>_sparsity<per cent>/`; with a context, its name follows. And
    `<asr_exp>/config_size<size>.yaml` is
    written, too: with it in place of config.yaml, the supernet's own checkpoint
    computes as that size. Folders that the same call has written before, and that
    nobody has changed, are left as they are.

    Args:
        asr_exp: Folder of a trained supernet.
        model_file: Checkpoint in it, from the joint phase.
        names: Which members, such as 16 or `sparsity70`; empty for the whole family.
        format: `plugin` (only the kept layers exist) or `stock` (opens in ESPnet
            without the plugin; the folder ends in `_stock`).
        done: Is told of every size when its folder is there.
        context: One of the family's; None: the encoder's own.

    Raises:
        ConfigError: the folder or checkpoint cannot be used, a member is not in the
            family or has not trained with the context, or an output folder exists that
            is not as this call writes it.
    """
    asr_exp = plain_path(asr_exp)
    model_file = find_checkpoint(asr_exp, model_file)
    model, config = _supernet(asr_exp, model_file)
    written = read_config(asr_exp)
    family = model.schedule.members()
    chosen = [model.schedule.member(name) for name in names] or family
    # All are asked for, and may be refused, before anything is written.
    subnets = [model.subnet(member) for member in chosen]
    for subnet in subnets:
        model.check_subnet(subnet, context=context)
    end = "" if context is None else f"_{Context.read(context, 'context').suffix}"
    suffixes = [f"{member.suffix}{end}" for member in chosen]
    digest = origin.digest(asr_exp, model_file)
    records = [
        origin.describe(asr_exp, model_file, digest, subnet, context)
        | origin.of_member(member, family)
        for member, subnet in zip(chosen, subnets)
    ]
    targets = [_target(asr_exp, suffix, format) for suffix in suffixes]
    for target, record in zip(targets, records):
        if origin.read(target) != record:
            check_absent(target)
    configs = [asr_exp / f"config_{suffix}.yaml" for suffix in suffixes]
    check_replaceable(configs)
    extracted = []
    work = zip(chosen, subnets, targets, records, configs)
    # What is there first: where that is refused, nothing has been written.
    for member, subnet, target, record, path in sorted(
        work, key=lambda one: not one[2].exists()
    ):
        small = cut(model, config, subnet, context=context)
        note = _write(
            target, model_file, *small, written, format, record, patterns(model)
        )
        # One line differs from config.yaml, or the context's, too: the checkpoint is
        # the supernet's own.
        changed = with_member(written, member)
        if context is not None:
            changed = Context.read(context, "context").within(changed)
        write_text(path, config_text(changed))
        extracted.append(Extracted(target, member.name, note))
        done(extracted[-1])
    return extracted


def extract_subnet(
    asr_exp: Path,
    model_file: str,
    subnet: Subnet,
    name: str,
    format: str = "plugin",
    audio: Sequence[Path] | None = None,
    context: str | None = None,
) -> Extracted:
    """Write `<asr_exp>_<name>/` with a model that holds only what `subnet` uses.

    Args:
        asr_exp: Folder of a trained supernet.
        model_file: Checkpoint in it, from the joint phase.
        subnet: Any subnet of the encoder.
        name: What the folder's name ends in.
        format: See `extract`.
        audio: Files on which batch-norm statistics are measured anew, see `cut`.
        context: See `cut`.

    Raises:
        ConfigError: see `cut` and `inputs`, or the output folder exists.
    """
    asr_exp = plain_path(asr_exp)
    model_file = find_checkpoint(asr_exp, model_file)
    good = name.replace("_", "").replace("-", "").isalnum()
    check(good, "subnet", name, "a file whose name is of letters, digits, _ and -")
    target = _target(asr_exp, name, format)
    check_absent(target)
    model, config = _supernet(asr_exp, model_file)
    digest = origin.digest(asr_exp, model_file)
    record = origin.describe(asr_exp, model_file, digest, subnet, context)
    heard = None if audio is None else inputs(model, config, audio)
    small = cut(model, config, subnet, heard, context)
    written = read_config(asr_exp)
    note = _write(target, model_file, *small, written, format, record, patterns(model))
    return Extracted(target, name, note)


def extract_changed(
    asr_exp: Path, model_file: str, chosen: Sequence[Member] = ()
) -> dict[str, Path]:
    """The folders of members (none given: all), extracted now where they have to be.

    One that was cut out of another checkpoint is renamed to `old<n>_<name>` first.

    Returns:
        Suffix (`size16`, `sparsity70`) → folder.

    Raises:
        ConfigError: see `extract`, or a folder was not written by it.
    """
    asr_exp = plain_path(asr_exp)
    model_file = find_checkpoint(asr_exp, model_file)
    family = members_of(asr_exp)
    chosen = list(chosen) or family
    folders = {m.suffix: _target(asr_exp, m.suffix, "plugin") for m in chosen}
    missing, digest = [], origin.digest(asr_exp, model_file)
    for member, folder in zip(chosen, folders.values()):
        if folder.exists():
            record = origin.read(folder)
            made = record is not None and origin.name(record) == member.name
            if not made or not (folder / record["model_file"]).is_file():
                raise ConfigError(
                    f"{folder} is not {member.suffix} as extract writes it (see its "
                    f"{origin.NAME}); remove or rename it."
                )
            if record["sha256"] == digest:
                continue
            folder.rename(_free_name(folder))
        missing.append(member)
    if missing:
        extract(asr_exp, model_file, missing)
    return folders


def members_of(asr_exp: Path) -> list[Member]:
    """The members of a trained family, by its config.

    Raises:
        ConfigError: the folder is not a supernet's.
    """
    config = read_config(asr_exp)
    if not is_family(config):
        raise ConfigError(f"asr_exp={asr_exp} is not a supernet with sizes.")
    return family_members(config)


def _supernet(asr_exp: Path, model_file: str) -> tuple[JointLoss, dict]:
    model, config = load_model(asr_exp, model_file)
    if not isinstance(model, JointLoss):
        raise ConfigError(f"asr_exp={asr_exp} is not a supernet with sizes.")
    return model, config


def _target(asr_exp: Path, name: str, format: str) -> Path:
    suffix = "_stock" if format == "stock" else ""
    return asr_exp.with_name(f"{asr_exp.name}_{name}{suffix}")


def _free_name(folder: Path) -> Path:
    names = (folder.with_name(f"old{n}_{folder.name}") for n in itertools.count(1))
    return next(name for name in names if not name.exists())


def _write(
    target: Path,
    model_file: str,
    config: dict,
    states: dict,
    written: dict,
    format: str,
    record: dict,
    sparse: dict[str, Pattern],
) -> str:
    """Write the folder, whole or not at all; returns a note on what was done.

    Args:
        target: The folder.
        model_file: Name of the checkpoint in it.
        config: Of the cut model, with the files that it names found.
        states: Its state dict.
        written: The supernet's config, as it names these files.
        format: See `extract`.
        record: See `origin.describe`.
        sparse: See `patterns`.
    """
    config, states, note = FORMATS[format](config, states)
    # What is written can be opened: found out before it is.
    load_states(build_model(config), states, target.name)
    text = config_text(as_named(config, written))
    if origin.read(target) == record and _holds(target, model_file, text, states):
        return f"{note} (was there before)"
    with new_folder(target) as unfinished:
        (unfinished / "config.yaml").write_text(text, encoding="utf-8")
        # Plain ESPnet reads dense matrices only.
        packed = states if format == "stock" else pack_states(states, sparse)
        torch.save(packed, unfinished / model_file)
        origin.write(unfinished, record)
    return note


def _holds(target: Path, model_file: str, text: str, states: dict) -> bool:
    """Whether what would be written into a folder is there, and nobody has changed it.

    Args:
        target: The folder.
        model_file: Name of its checkpoint.
        text: Of its config.yaml.
        states: What its checkpoint holds.
    """
    config, checkpoint = target / "config.yaml", target / model_file
    if not (config.is_file() and checkpoint.is_file()):
        return False
    found = read_states(checkpoint)
    same = found.keys() == states.keys() and all(
        torch.equal(found[name], value) for name, value in states.items()
    )
    return same and config.read_text(encoding="utf-8") == text
