"""One training run, many encoder sizes: an ESPnet plugin."""

from typing import TYPE_CHECKING

from espnet_dynsize.core.about import VERSION

if TYPE_CHECKING:
    from pathlib import Path

    from espnet_dynsize.core.subnet import Subnet

__version__ = VERSION


def register() -> None:
    """Add the plugin's encoders, models and tasks to ESPnet's.

    Call it before `espnet2.bin.*` modules are imported; `espnet-dynsize run` does. All
    models of the task `asr_transducer` then have torchaudio's transducer loss.
    """
    from espnet_dynsize.train import task, transducer_task

    task.register()
    transducer_task.register()


def load(
    path: "str | Path",
    size: "int | Subnet | None" = None,
    model_file: str = "",
    **options,
):
    """Open a trained model, from a folder or a zip, at one size.

    See `espnet_dynsize.deploy.open.load`; of a file that ends in .onnx, see
    `espnet_dynsize.runtime.Model`, whose options it takes.
    """
    if str(path).endswith(".onnx"):
        from espnet_dynsize.runtime import Model

        given = dict(size=size, model_file=model_file or None) | options
        known = {k: given.pop(k) for k in ("threads", "beam_size") if k in given}
        for key, value in given.items():
            if value is not None:
                raise ValueError(
                    f"{key}={value} must be left out: {path} has one way to hear."
                )
        return Model(path, **known)
    from espnet_dynsize.deploy.open import load as load_model

    return load_model(path, size, model_file, **options)
