"""Start a supernet with LayerNorm from a stock Conformer with BatchNorm."""

from collections.abc import Mapping
from pathlib import Path

import torch

from espnet_dynsize.core.checkpoint import read_states
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.files import check_absent, replacing

# Of a convolution module; the second in the task `asr_transducer`
MEANS = (".conv_module.norm.running_mean", ".conv_mod.norm.running_mean")
_PARTS = ("running_mean", "running_var", "weight", "bias")


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
    check_absent(Path(output))
    states = read_states(Path(model_file))
    means = [name for name in states if name.endswith(MEANS)]
    if not means:
        raise ConfigError(
            f"model_file={model_file} has no BatchNorm in a convolution module: "
            "nothing to convert."
        )
    for name in means:
        prefix = name.removesuffix("running_mean")
        lost = [n for n in _PARTS if f"{prefix}{n}" not in states]
        if lost:
            raise ConfigError(f"model_file={model_file} has no {prefix}{lost[0]}.")
        parts = [states[f"{prefix}{n}"] for n in _PARTS]
        real = all(v.is_floating_point() and v.ndim == 1 for v in parts)
        if not real or len({len(v) for v in parts}) > 1:
            raise ConfigError(
                f"model_file={model_file}: {prefix}* must be as many real numbers each."
            )
    converted = to_layer_norm(states)
    wrong = [n for n, v in converted.items() if v.is_complex() or not _finite(v)]
    if wrong:
        raise ConfigError(
            f"model_file={model_file} must hold finite real numbers, and variances "
            f"above 0; {wrong[0]} would not."
        )
    with replacing(Path(output)) as partial:
        torch.save(converted, partial)
    return len(means)


def _finite(values: torch.Tensor) -> bool:
    return bool(values.isfinite().all())


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
        if not name.endswith(MEANS):
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
