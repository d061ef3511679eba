"""What an extracted model was made of: `origin.yaml` in its folder."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import yaml

from espnet_dynsize.core.about import VERSION
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.members import Member
from espnet_dynsize.core.subnet import Subnet
from espnet_dynsize.core.yaml_base import read_yaml

NAME = "origin.yaml"


def describe(
    asr_exp: Path,
    model_file: str,
    sha256: str,
    subnet: Subnet,
    context: str | None = None,
) -> dict:
    """The record of a model that holds `subnet` of `asr_exp/model_file`.

    Args:
        asr_exp: Folder of the supernet.
        model_file: Its checkpoint.
        sha256: The `digest` of that supernet.
        subnet: What was cut out.
        context: Where it is not the encoder's own.
    """
    record = dict(
        subnet=subnet.to_yaml(),
        supernet=asr_exp.name,
        model_file=model_file,
        sha256=sha256,
        espnet_dynsize=VERSION,
    )
    return record | ({} if context is None else {"context": context})


def of_member(member: Member, family: Sequence[Member]) -> dict:
    """What the record of a member has besides.

    Args:
        member: Of the family.
        family: All members.
    """
    if member.sparsity is None:
        return dict(size=member.size, family=[m.size for m in family])
    return dict(member=member.name, family=[m.name for m in family])


def name(record: dict) -> str | None:
    """The name of the member that a record is of; None for another subnet."""
    named = record.get("size", record.get("member"))
    return None if named is None else str(named)


def digest(asr_exp: Path, model_file: str) -> str:
    """SHA-256 of a supernet's config and checkpoint, one after the other."""
    # The config, too: the same weights with other `budgets` are other sizes.
    content = hashlib.sha256()
    for path in (asr_exp / "config.yaml", asr_exp / model_file):
        content.update(path.read_bytes())
    return content.hexdigest()


def write(folder: Path, record: dict) -> None:
    (folder / NAME).write_text(yaml.safe_dump(record, sort_keys=False))


def read(folder: Path) -> dict | None:
    """The record of an extracted model; None where there is none.

    Raises:
        ConfigError: there is one that `describe` has not made.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    record = read_yaml(path)
    good = isinstance(record, dict) and all(
        isinstance(record.get(key), str) for key in ("supernet", "model_file", "sha256")
    )
    # Version 0.1 had sizes only, and no subnets.
    if not good or not (_names_member(record) or _names_subnet(record)):
        raise ConfigError(f"{path} is not the record of an extracted model.")
    if "subnet" in record:
        Subnet.from_yaml(record["subnet"], str(path))
    return record


def _names_member(record: dict) -> bool:
    for key, kind in (("size", int), ("member", str)):
        family = record.get("family")
        listed = isinstance(family, list) and all(type(n) is kind for n in family)
        if type(record.get(key)) is kind and listed:
            return True
    return False


def _names_subnet(record: dict) -> bool:
    return "subnet" in record and not {"size", "member"} & set(record)
