"""The exports that belong into a model's zip."""

from pathlib import Path

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy import origin
from espnet_dynsize.runtime import InputError, read_metadata

FOLDER = "onnx"


def check_exports(asr_exp: Path, model_file: str) -> list[str]:
    """Names in `<asr_exp>/onnx` of the files that `transcribe` opens.

    Args:
        asr_exp: Folder of a model.
        model_file: Its checkpoint.

    Raises:
        ConfigError: there is none, or one is of another checkpoint.
    """
    folder, sha256 = asr_exp / FOLDER, origin.digest(asr_exp, model_file)
    names = []
    for path in sorted(folder.rglob("*.onnx")):
        try:
            about = read_metadata(path)
        except InputError as error:
            raise ConfigError(str(error)) from error
        if about.get("sha256") != sha256:
            raise ConfigError(
                f"{path} was made of another checkpoint than {model_file}: export it "
                "anew, or remove it."
            )
        if "input" in about:  # not a part of another one's
            names.append(str(path.relative_to(folder)))
    if not names:
        raise ConfigError(
            f"{folder} has no .onnx file: `espnet-dynsize export --asr_exp {asr_exp}` "
            "writes one."
        )
    return names
