"""One ONNX file of a model's inference twin."""

import importlib
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import ModuleType

import torch

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.runtime import INPUTS, KEY, OF_PART, part_path

LENGTHS = "output_lengths"
# The first with LayerNormalization
OPSET = 17


def write(
    twin: torch.nn.Module, path: Path, about: dict, examples: torch.Tensor
) -> None:
    """Write the file of an encoder, and one of each of its parts beside it.

    Args:
        twin: An `Encoder`, or what takes and gives the same.
        path: The file.
        about: Its metadata.
        examples: Samples [2, N] or features [2, L, D].

    Raises:
        ConfigError: a package is missing.
    """
    lengths = torch.tensor([examples.size(1), examples.size(1) * 3 // 4])
    axes = {"x": {0: "batch", 1: "time"}, twin.gives: {0: "batch", 1: "frames"}}
    axes |= {name: {0: "batch"} for name in (INPUTS[1], LENGTHS)}
    outputs = [twin.gives, LENGTHS]
    _export(twin, path, (examples, lengths), (INPUTS, outputs), axes)
    tell_file(path, about)
    for name, part in twin.parts.items():
        beside = part_path(path, name)
        names = part.inputs, part.outputs
        _export(part, beside, part.examples, names, part.axes)
        tell_file(beside, dict(kind=name) | {key: about[key] for key in OF_PART})


def _export(
    module: torch.nn.Module,
    path: Path,
    examples: tuple[torch.Tensor, ...],
    names: tuple[list[str], list[str]],
    axes: dict,
) -> None:
    """By PyTorch's exporter that traces: the newer one takes minutes."""
    inputs, outputs = names
    with torch.no_grad(), _quiet():
        torch.onnx.export(
            module,
            examples,
            str(path),
            input_names=inputs,
            output_names=outputs,
            dynamic_axes={n: a for n, a in axes.items() if n in inputs + outputs},
            opset_version=OPSET,
            dynamo=False,
        )


def tell_file(path: Path, about: dict) -> None:
    """Give an ONNX file its metadata, in place of all that tools have left in it."""
    onnx = package("onnx")
    model = onnx.load(path)
    for node in model.graph.node:
        # Paths of this machine, and calls in this code
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    tell(model, about)
    onnx.save(model, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters tell everybody that they are deprecated, or what they are doing."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            with redirect_stderr(StringIO()):
                yield
    finally:
        logging.disable(before)


def tell(model, about: dict) -> None:
    """Give an ONNX model its metadata, in place of others."""
    del model.metadata_props[:]
    model.producer_name, model.producer_version = "espnet_dynsize", ""
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(about, ensure_ascii=False)


def package(name: str) -> ModuleType:
    """A package of the extra `export`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"{name} is not installed: pip install 'espnet_dynsize[export]'."
        ) from error
