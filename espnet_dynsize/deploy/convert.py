"""Start a supernet with LayerNorm from a stock Conformer with BatchNorm."""

from collections.abc import Mapping
from pathlib import Path

import torch
from espnet2.torch_utils.safe_torch_load import safe_torch_load

from espnet_dynsize.core.errors import ConfigError

NORM = ".conv_module.norm."


def convert(model_file: Path, output: Path) -> int:
    """Write a stock checkpoint with LayerNorm in its convolution modules.

    Args:
        model_file: Checkpoint of a Conformer with BatchNorm.
        output: New file.

    Returns:
        How many norms were converted.

    Raises:
        ConfigError: there is no such file or no BatchNorm in it, or `output` exists.
    """
    if not Path(model_file).is_file():
        raise ConfigError(f"model_file={model_file} does not exist.")
    if Path(output).exists():
        raise ConfigError(f"output={output} exists; remove or rename it.")
    states = safe_torch_load(model_file, map_location="cpu")
    converted = to_layer_norm(states)
    number = sum(name.endswith(f"{NORM}running_mean") for name in states)
    if number == 0:
        raise ConfigError(
            f"model_file={model_file} has no BatchNorm in a convolution module: "
            "nothing to convert."
        )
    torch.save(converted, output)
    return number


def to_layer_norm(
    states: Mapping[str, torch.Tensor], eps: float = 1e-5
) -> dict[str, torch.Tensor]:
    """Replace BatchNorm by LayerNorm over the channels, as alike as can be.

    BatchNorm gives w (x − μ) / σ + b with a mean and a deviation for each channel over
    frames, LayerNorm w' (x − m) / s + b' with those of each frame over channels. Where
    m and s are what the statistics say of an average frame, m = mean(μ) and
    s² = mean(σ²) + var(μ), both are equal for w' = w s / σ and b' = b + w (m − μ) / σ.

    Args:
        states: State dict of a stock Conformer.
        eps: Of both norms.
    """
    converted = dict(states)
    for name in states:
        if not name.endswith(f"{NORM}running_mean"):
            continue
        prefix = name.removesuffix("running_mean")
        mean, variance = states[name], states[f"{prefix}running_var"]
        gain = states[f"{prefix}weight"] / (variance + eps).sqrt()
        middle = mean.mean()
        deviation = (variance.mean() + mean.var(unbiased=False) + eps).sqrt()
        converted[f"{prefix}weight"] = gain * deviation
        converted[f"{prefix}bias"] = states[f"{prefix}bias"] + gain * (middle - mean)
        for statistic in ("running_mean", "running_var", "num_batches_tracked"):
            converted.pop(f"{prefix}{statistic}", None)
    return converted
