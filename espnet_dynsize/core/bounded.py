"""Building a model that a stranger's config describes, within what its weights need."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from espnet_dynsize.core.checkpoint import stored_numbers
from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.core.rate import hertz

# Sections whose numbers are dimensions of the network
_DIMENSIONS = (
    *("encoder_conf", "decoder_conf", "joint_net_conf", "joint_network_conf"),
    "lm_conf",
)
# Blocks that have lost all their layers have no weights, but take time.
_MOST_BLOCKS = 1000
# A dimension that needs no weights of that size, such as a longest position
_LARGEST = 10_000
# Hertz, samples of a window
_LARGEST_RATE = 200_000
# ESPnet's default
_N_FFT = 512
_SAMPLES = ("fs", "n_fft", "win_length", "hop_length", "n_mels")
# Parameters that are made, and replaced, while a supernet is built
_SLACK = 1_000_000


@contextmanager
def bounded(config: Mapping, states: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Refuse to build, inside the block, a model that has far more than `states`.

    Without it, `num_blocks: 100000000` in a small file would fill the memory.

    Args:
        config: What is built.
        states: The state dict that will be loaded.

    Raises:
        ConfigError: the model is too large.
    """
    numbers = stored_numbers(states)
    longest = max([0, *(d for v in states.values() for d in v.shape)])
    # Tensors without numbers may have any shape.
    largest = max(_LARGEST, min(longest, numbers))
    for section in _DIMENSIONS:
        blocks = 0
        for key, value in _numbers(config.get(section) or {}):
            if abs(value) > largest:
                raise ConfigError(
                    f"{section}: {key}={value} must be at most {largest}, the largest "
                    "dimension in the checkpoint."
                )
            blocks += value if key == "num_blocks" else 0
        most = max(_MOST_BLOCKS, len(states))
        check(blocks <= most, f"{section}: num_blocks", blocks, f"at most {most}")
    _check_front_end(config.get("frontend_conf") or {})
    left = 4 * numbers + _SLACK

    def count(module: torch.nn.Module, name: str, parameter: object) -> None:
        nonlocal left
        left -= parameter.numel() if isinstance(parameter, torch.Tensor) else 0
        if left < 0:
            raise ConfigError(
                "the config describes a model of far more weights than the "
                f"checkpoint's {numbers}."
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _numbers(section: object, key: str = "") -> Iterator[tuple[str, float]]:
    """The numbers in nested sections and lists, with the key that each belongs to."""
    if isinstance(section, Mapping):
        for name, value in section.items():
            yield from _numbers(value, str(name))
    elif isinstance(section, list | tuple):
        for value in section:
            yield from _numbers(value, key)
    elif isinstance(section, int | float):
        yield key, section


def _check_front_end(conf: Mapping) -> None:
    for key, value in conf.items():
        least = 1 if key in _SAMPLES else 0
        number = hertz(value) if key == "fs" else value
        if key in _SAMPLES and number is not None:
            whole = isinstance(number, int)
            check(whole, f"frontend_conf: {key}", value, "a whole number")
        if isinstance(number, int | float) and not least <= number <= _LARGEST_RATE:
            raise ConfigError(
                f"frontend_conf: {key}={value} must be from {least} to {_LARGEST_RATE}."
            )
    window, samples = conf.get("win_length"), conf.get("n_fft", _N_FFT)
    fits = None in (window, samples) or window <= samples
    allowed = f"at most n_fft={samples}"
    check(fits, "frontend_conf: win_length", window, allowed)
