"""The exports that belong into a model's zip."""

from pathlib import Path
from typing import NamedTuple

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy import origin
from espnet_dynsize.deploy.onnx.sherpa import MODEL, TOKENS
from espnet_dynsize.runtime import (
    PARTS,
    InputError,
    Model,
    files_of,
    read_metadata,
)

FOLDER = "onnx"


class Exports(NamedTuple):
    """What goes into a zip, as paths in the model's folder."""

    models: list[Path]  # that `transcribe` opens
    files: list[Path]  # all of them, with their parts


def find_exports(asr_exp: Path, model_file: str) -> Exports:
    """The files in `<asr_exp>/onnx` that `export` has written.

    Args:
        asr_exp: Folder of a model.
        model_file: Its checkpoint.

    Raises:
        ConfigError: there is none, a part is missing, or one is of another checkpoint.
    """
    folder, sha256 = asr_exp / FOLDER, origin.digest(asr_exp, model_file)
    models, files = [], []
    for path in sorted((*folder.glob("*.onnx"), *folder.glob(f"*_sherpa/{MODEL}"))):
        try:
            about = read_metadata(path)
            if about.get("sha256") != sha256:
                raise ConfigError(
                    f"{path} was made of another checkpoint than {model_file}: export "
                    "it anew, or remove it."
                )
            if about.get("kind") in PARTS:
                continue
            Model(path)  # with its parts
        except InputError as error:
            raise ConfigError(str(error)) from error
        models.append(path)
        files += files_of(path, about)
        if path.parent != folder:
            files += [path.with_name(TOKENS), path.with_name("README.md")]
    if not models:
        raise ConfigError(
            f"{folder} has no model: `espnet-dynsize export --asr_exp {asr_exp}` "
            "writes one."
        )
    return Exports(*([p.relative_to(asr_exp) for p in ps] for ps in (models, files)))
