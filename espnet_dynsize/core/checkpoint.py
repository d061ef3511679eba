"""Reading checkpoints, and whether a state dict fits a model."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch

from espnet_dynsize.core.compact import unpack_states
from espnet_dynsize.core.errors import ConfigError, one_line
from espnet_dynsize.core.identity import unknown

# Where version 0.1 kept the schedule → where it is now
_MOVED = {
    "encoder.schedule.update": "schedule.update",
    "encoder.schedule.joint_epochs": "schedule.joint_epochs",
    "encoder.schedule.": "schedule.selection.",
}
IDENTITY = "schedule.identity"
_OUTPUT_PER_SIZE = "ctc.ctc_lo.by_size."


def read_checkpoint(path: Path) -> object:
    """What a checkpoint file holds: tensors and plain Python objects, no code.

    ESPnet's own reader asks at the terminal whether to load what it cannot read in an
    unsafe way.

    Raises:
        ConfigError: there is no such file, or it cannot be read.
    """
    if not path.is_file():
        raise ConfigError(f"checkpoint {path} does not exist.")
    try:
        # PyTorch's zip files are not compressed; what unpacks to more is not one.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > 2 * path.stat().st_size:
                raise zipfile.BadZipFile("it unpacks to more than there is in it")
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        why = "it holds something other than tensors and plain values"
        raise ConfigError(f"checkpoint {path} cannot be read: {why}.") from error
    except _UNREADABLE as error:
        raise ConfigError(
            f"checkpoint {path} cannot be read, it is cut short or no checkpoint: "
            f"{one_line(error)}."
        ) from error


# What torch raises depends on where the file ends.
_UNREADABLE = (
    *(RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError),
    *(TypeError, AssertionError, OSError, zipfile.BadZipFile),
)


def read_states(path: Path) -> dict[str, torch.Tensor]:
    """The model's state dict in a checkpoint, with its present names.

    Also out of Lightning's, and of ESPnet's `checkpoint.pth`.

    Raises:
        ConfigError: the file cannot be read or holds no state dict.
    """
    return model_states(read_checkpoint(Path(path)), f"checkpoint {path}")


def model_states(checkpoint: object, source: str) -> dict[str, torch.Tensor]:
    """The model's state dict with its present names, also out of Lightning's.

    Args:
        checkpoint: What a checkpoint file holds.
        source: Its name, for messages.

    Raises:
        ConfigError: it is not a state dict.
    """
    if isinstance(checkpoint, Mapping):
        checkpoint = checkpoint.get("state_dict", checkpoint)
    if not isinstance(checkpoint, Mapping):
        kind = type(checkpoint).__name__
        raise ConfigError(f"{source} must hold a state dict, not {kind}.")
    for name, value in checkpoint.items():
        if not isinstance(name, str) or not _is_dense(value):
            raise ConfigError(
                f"{source} must hold dense tensors by name, of numbers of a usual "
                f"type; {name!r} is not one."
            )
        if _bytes(value) > max(value.untyped_storage().nbytes(), _EXPANDED):
            raise ConfigError(
                f"{source}: {name} has the shape {list(value.shape)}, but far fewer "
                "numbers are stored."
            )
    states = dict(checkpoint)
    if any(name.startswith(_OUTPUT_PER_SIZE) for name in states):
        raise ConfigError(
            f"{source} is of a family with an output layer for each size, which "
            "this version no longer has: cut its sizes with version 0.1, which trained "
            "it; cut models stay valid."
        )
    bring_up_to_date(states)
    unpack_states(states, source)
    return states


_NUMBERS = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.complex64, torch.complex128, torch.bool, torch.uint8),
    *(torch.int8, torch.int16, torch.int32, torch.int64),
)
# Bytes of a tensor of which a part is stored and repeated, as a position table may be
_EXPANDED = 1_000_000


def _is_dense(value: object) -> bool:
    dense = isinstance(value, torch.Tensor) and value.layout is torch.strided
    return dense and not value.is_meta and value.dtype in _NUMBERS


def _bytes(value: torch.Tensor) -> int:
    return value.numel() * value.element_size()


def stored_numbers(states: Mapping[str, torch.Tensor]) -> int:
    """How many numbers a state dict holds; tensors that share theirs count once."""
    shared = {}
    for value in states.values():
        storage = value.untyped_storage()
        shared[storage.data_ptr()] = storage.nbytes() // value.element_size()
    return sum(shared.values())


def bring_up_to_date(states: dict, prefix: str = "") -> None:
    """Make a state dict of an older version one of this version, in place.

    Args:
        states: State dict.
        prefix: What stands before the model's names in it.
    """
    start = f"{prefix}encoder.schedule."
    for name in [name for name in states if name.startswith(start)]:
        old = next(old for old in _MOVED if name.startswith(prefix + old))
        tail = name.removeprefix(prefix + old)
        states[prefix + _MOVED[old] + tail] = states.pop(name)
    if f"{prefix}schedule.update" in states:  # of a supernet
        own = states.get(prefix + IDENTITY)
        # That of another shape is from before the first release.
        if own is None or own.shape != unknown().shape:
            states[prefix + IDENTITY] = unknown()


def misfit(model: torch.nn.Module, states: Mapping[str, torch.Tensor]) -> str | None:
    """What is first wrong with `model_states` for `model`; None where they fit.

    Names, shapes and kinds of numbers must be the model's, and numbers finite. Modules
    with a method `misfit` say what their own buffers may hold.
    """
    expected, given = model.state_dict(), dict(states)
    judges: dict[str, tuple] = {}
    for prefix, module in model.named_modules():
        start = f"{prefix}." if prefix else ""
        if getattr(module, "is_opaque", False):  # has state that is not read here
            given = {n: v for n, v in given.items() if not n.startswith(start)}
        if hasattr(module, "misfit"):
            for name in module._buffers:
                judges[start + name] = (module, name)
    # What the model is says more than the first tensor that differs for that reason.
    names = sorted(expected.keys() | given.keys(), key=lambda n: (n != IDENTITY, n))
    for name in names:
        if name not in expected or name not in given:
            where = "model" if name in expected else "checkpoint"
            return f"{name} is only in the {where}"
        if expected[name].shape != given[name].shape:
            return (
                f"{name} has shape {list(given[name].shape)}, the model "
                f"{list(expected[name].shape)}"
            )
        if expected[name].is_floating_point() != given[name].is_floating_point():
            return f"{name} holds numbers of type {given[name].dtype}"
        if name in judges:
            module, buffer = judges[name]
            wrong = module.misfit(buffer, given[name])
        elif not given[name].isfinite().all():
            wrong = "holds numbers that are not finite"
        else:
            wrong = None
        if wrong is not None:
            return f"it {wrong}" if name == IDENTITY else f"{name} {wrong}"
    return None
