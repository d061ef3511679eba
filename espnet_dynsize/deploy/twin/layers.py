"""The layers of blocks, as twins of ESPnet's modules: [B, T, D] of [B, T, D]."""

import torch
from espnet2.asr.layers.cgmlp import ConvolutionalGatingMLP
from espnet2.legacy.nets.pytorch_backend.conformer.convolution import ConvolutionModule
from espnet2.legacy.nets.pytorch_backend.transformer.positionwise_feed_forward import (
    PositionwiseFeedForward,
)
from torch.nn.utils.fusion import fuse_conv_bn_eval

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy.twin.attention import Frames, twin_attention


class FeedForward(torch.nn.Module):
    """ESPnet's feed-forward module, with the scale that the block gives it.

    Args:
        stock: The module.
        scale: Of its output.

    Raises:
        ConfigError: it has convolutions.
    """

    def __init__(self, stock: PositionwiseFeedForward, scale: float):
        super().__init__()
        _check_type(stock, PositionwiseFeedForward, "positionwise_layer_type", "linear")
        self.first, self.activation = stock.w_1, stock.activation
        self.second = scaled(stock.w_2, scale)

    def forward(self, x: torch.Tensor, frames: Frames) -> torch.Tensor:
        return self.second(self.activation(self.first(x)))


class Convolution(torch.nn.Module):
    """ESPnet's convolution module, with its batch norm in the convolution.

    Args:
        stock: The module.

    Raises:
        ConfigError: it is another.
    """

    def __init__(self, stock: ConvolutionModule):
        super().__init__()
        _check_type(stock, ConvolutionModule, "cnn_module", "ESPnet's")
        self.first = pointwise(stock.pointwise_conv1)
        self.second = pointwise(stock.pointwise_conv2)
        self.along_time, self.norm = stock.depthwise_conv, None
        if isinstance(stock.norm, torch.nn.BatchNorm1d):
            self.along_time = fuse_conv_bn_eval(stock.depthwise_conv, stock.norm)
        else:
            self.norm = stock.norm
        self.activation = stock.activation

    def forward(self, x: torch.Tensor, frames: Frames) -> torch.Tensor:
        x = torch.nn.functional.glu(self.first(x), dim=-1) * frames.valid
        x = self.along_time(x.transpose(1, 2))  # [B, D, T]
        x = x if self.norm is None else self.norm(x)
        return self.second(self.activation(x).transpose(1, 2))


class GatingMLP(torch.nn.Module):
    """ESPnet's `ConvolutionalGatingMLP`.

    Args:
        stock: The module.
    """

    def __init__(self, stock: ConvolutionalGatingMLP):
        super().__init__()
        _check_type(stock, ConvolutionalGatingMLP, "cgmlp", "ESPnet's")
        unit = stock.csgu
        self.first, self.second = stock.channel_proj1, stock.channel_proj2
        self.norm, self.along_time = unit.norm, unit.conv
        self.after, self.activation = unit.linear, unit.act

    def forward(self, x: torch.Tensor, frames: Frames) -> torch.Tensor:
        x, gate = self.first(x).chunk(2, dim=-1)
        gate = self.norm(gate) * frames.valid
        gate = self.along_time(gate.transpose(1, 2)).transpose(1, 2)
        if self.after is not None:
            gate = self.after(gate)
        return self.second(x * self.activation(gate))


class MergedBranch(torch.nn.Module):
    """The two branches of an E-Branchformer's block, merged.

    Args:
        block: The block.
    """

    def __init__(self, block: torch.nn.Module):
        super().__init__()
        self.norms = torch.nn.ModuleList([block.norm_mha, block.norm_mlp])
        branches = [twin_attention(block.attn), GatingMLP(block.cgmlp)]
        self.branches = torch.nn.ModuleList(branches)
        self.along_time, self.merge = block.depthwise_conv_fusion, block.merge_proj

    def forward(self, x: torch.Tensor, frames: Frames) -> torch.Tensor:
        both = zip(self.norms, self.branches)
        x = torch.cat([branch(norm(x), frames) for norm, branch in both], dim=-1)
        fused = self.along_time((x * frames.valid).transpose(1, 2)).transpose(1, 2)
        return self.merge(x + fused)


def pointwise(stock: torch.nn.Conv1d) -> torch.nn.Linear:
    """A convolution of one frame, as what it is."""
    return _linear(stock.weight.detach()[..., 0], stock.bias)


def scaled(stock: torch.nn.Linear, scale: float) -> torch.nn.Linear:
    """A projection whose outputs are multiplied by `scale`."""
    bias = None if stock.bias is None else stock.bias * scale
    return _linear(stock.weight.detach() * scale, bias)


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Linear:
    made = torch.nn.Linear(weight.size(1), len(weight), bias is not None)
    made.weight.data = weight
    if bias is not None:
        made.bias.data = bias.detach()
    return made


def _check_type(module: torch.nn.Module, kind: type, key: str, allowed: str) -> None:
    if type(module) is not kind:
        raise ConfigError(
            f"{type(module).__name__} is not for an export; {key} must be {allowed}."
        )
