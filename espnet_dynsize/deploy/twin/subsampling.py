"""The front-end of an encoder: features at a fraction of their rate."""

import math

import torch
from espnet2.legacy.nets.pytorch_backend.transformer import subsampling

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy.twin.layers import scaled
from espnet_dynsize.deploy.twin.positions import Positions
from espnet_dynsize.encoder.front_end import VGGSubsampling

CONV2D = tuple(
    getattr(subsampling, f"Conv2dSubsampling{factor}") for factor in ("", 1, 2, 6, 8)
)


class Patches(torch.nn.Module):
    """A convolution [B, T, F, C] → [B, T', F', C'] as a product with its patches.

    A matrix product can be done in 8-bit integers where a convolution cannot, or only
    slowly.

    Args:
        stock: A convolution without padding.
    """

    def __init__(self, stock: torch.nn.Conv2d):
        super().__init__()
        self.kernel, self.stride = stock.kernel_size, stock.stride
        size = stock.in_channels * self.kernel[0] * self.kernel[1]
        self.project = torch.nn.Linear(size, stock.out_channels)
        # Patches have their channels last.
        weight = stock.weight.detach().permute(0, 2, 3, 1)
        self.project.weight.data = weight.reshape(stock.out_channels, size)
        self.project.bias.data = stock.bias.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (rows, columns), (down, right) = self.kernel, self.stride
        height = (x.size(1) - rows) // down * down + 1
        width = (x.size(2) - columns) // right * right + 1
        places = [
            x[:, i : i + height : down, j : j + width : right]
            for i in range(rows)
            for j in range(columns)
        ]
        return self.project(torch.cat(places, dim=-1))


class ChannelsFirst(torch.nn.Module):
    """A convolution [B, T, F, C] → [B, T', F', C'] as such.

    Args:
        stock: The convolution.
    """

    def __init__(self, stock: torch.nn.Conv2d):
        super().__init__()
        self.stock = stock

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.stock(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Convolutions(torch.nn.Module):
    """ESPnet's `Conv2dSubsampling` and its relatives, without positions.

    Args:
        stock: One of them.
        scale: Of the outputs.

    Attributes:
        factor: Frames of features for one of the output.
    """

    def __init__(self, stock: torch.nn.Module, scale: float):
        super().__init__()
        self.steps = torch.nn.ModuleList(map(_step, stock.conv))
        convolutions = [m for m in stock.conv if isinstance(m, torch.nn.Conv2d)]
        # Each takes (L - kernel) // stride + 1 frames of L.
        self.sizes = [(c.kernel_size[0], c.stride[0]) for c in convolutions]
        self.factor = math.prod(stride for _, stride in self.sizes)
        self.out = _channels_last(stock.out, convolutions[-1].out_channels, scale)

    def forward(
        self, x: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, T', D] and lengths [B] of features [B, T, F]."""
        x = x[..., None]
        for step in self.steps:
            x = step(x)
        for kernel, stride in self.sizes:
            lengths = (lengths - kernel) // stride + 1
        return self.out(x.flatten(2)), lengths


def _step(module: torch.nn.Module) -> torch.nn.Module:
    if not isinstance(module, torch.nn.Conv2d):
        return torch.nn.ReLU()  # ESPnet's writes into what it reads
    # As products, those of one channel or of each for itself would be slower.
    plain = module.groups == 1 and module.in_channels > 1
    return Patches(module) if plain else ChannelsFirst(module)


def _channels_last(
    stock: torch.nn.Linear, channels: int, scale: float
) -> torch.nn.Linear:
    """A projection of [C · F] as one of [F · C]."""
    made = scaled(stock, scale)
    weight = made.weight.data.view(stock.out_features, channels, -1)
    made.weight.data = weight.transpose(1, 2).reshape(stock.out_features, -1)
    return made


class VGG(torch.nn.Module):
    """The twin of `VGGSubsampling`, without positions.

    Args:
        stock: It.
        scale: Of the outputs.
    """

    factor = 4

    def __init__(self, stock: VGGSubsampling, scale: float):
        super().__init__()
        self.conv, self.out = stock.conv, scaled(stock.out, scale)

    def forward(
        self, x: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Convolutions`."""
        x = x[:, None]  # [B, 1, T, F]
        for i, conv in enumerate(self.conv):
            valid = torch.arange(x.size(2)) < lengths[:, None]
            x = conv(x * valid[:, None, :, None].to(x))
            if i % 2:
                x = torch.nn.functional.max_pool2d(torch.relu(x), (2, 1))
                lengths = lengths // 2
        return self.out(x.transpose(1, 2).flatten(2)), lengths


class Projection(torch.nn.Module):
    """`input_layer: linear`, without positions.

    Args:
        stock: ESPnet's modules of it, positions last.
        scale: Of the outputs.
    """

    factor = 1

    def __init__(self, stock: torch.nn.Sequential, scale: float):
        super().__init__()
        self.steps, self.scale = torch.nn.Sequential(*list(stock)[:-1]), scale

    def forward(
        self, x: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Convolutions`."""
        return self.steps(x) * self.scale, lengths


def twin_front_end(stock: torch.nn.Module) -> tuple[torch.nn.Module, Positions]:
    """The twins of an encoder's `embed`, and of the positions that it adds.

    Raises:
        ConfigError: the front-end is not for an export.
    """
    if isinstance(stock, VGGSubsampling):
        make = VGG
    elif isinstance(stock, CONV2D):
        make = Convolutions
    elif isinstance(stock, torch.nn.Sequential) and _projects(stock):
        positions = Positions(stock[-1])
        return Projection(stock, positions.scale), positions
    else:
        raise ConfigError(
            "encoder_conf: input_layer must be linear, vgg, separable_conv2d or one of "
            "conv2d, conv2d1, conv2d2, conv2d6, conv2d8 for an export."
        )
    positions = Positions(stock.pos_enc)
    return make(stock, positions.scale), positions


def _projects(stock: torch.nn.Sequential) -> bool:
    kinds = (torch.nn.Linear, torch.nn.LayerNorm)
    return all(isinstance(module, kind) for module, kind in zip(stock, kinds))
