"""One training run, many encoder sizes: an ESPnet plugin."""

from typing import TYPE_CHECKING

from espnet_dynsize.core.about import VERSION

if TYPE_CHECKING:
    from pathlib import Path

    from espnet_dynsize.core.subnet import Subnet

__version__ = VERSION


def register() -> None:
    """Add the plugin's encoders, models and task to ESPnet's ASR choices.

    Call it before `espnet2.bin.*` modules are imported; `espnet-dynsize run` does.
    """
    from espnet_dynsize.train.task import register as register_task

    register_task()


def load(
    path: "str | Path",
    size: "int | Subnet | None" = None,
    model_file: str = "",
    **options,
):
    """Open a trained model, from a folder or a zip, at one size.

    See `espnet_dynsize.deploy.open.load`.
    """
    from espnet_dynsize.deploy.open import load as load_model

    return load_model(path, size, model_file, **options)
