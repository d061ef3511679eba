"""What an extracted model was made of: `origin.yaml` in its folder."""

import hashlib
from pathlib import Path

import yaml

from espnet_dynsize.core.about import VERSION
from espnet_dynsize.core.subnet import Subnet
from espnet_dynsize.core.yaml_base import read_yaml

NAME = "origin.yaml"


def describe(asr_exp: Path, model_file: str, sha256: str, subnet: Subnet) -> dict:
    """The record of a model that holds `subnet` of `asr_exp/model_file`.

    Args:
        asr_exp: Folder of the supernet.
        model_file: Its checkpoint.
        sha256: The `digest` of that supernet.
        subnet: What was cut out.
    """
    return dict(
        subnet=subnet.to_yaml(),
        supernet=asr_exp.name,
        model_file=model_file,
        sha256=sha256,
        espnet_dynsize=VERSION,
    )


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
    """The record of an extracted model; None where there is none."""
    path = folder / NAME
    return read_yaml(path) if path.is_file() else None
