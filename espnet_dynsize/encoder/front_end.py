"""Front-ends (`input_layer`): two that ESPnet lacks, and one run for all subnets."""

import torch
from espnet2.layers.stft import Stft
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import (
    Conv2dSubsampling,
    _subsample_mask,
    check_short_utt,
)
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling_without_posenc import (
    Conv2dSubsamplingWOPosEnc,
)

from espnet_dynsize.encoder.swap import swap_class
from espnet_dynsize.encoder.switch import Switch


class VGGSubsampling(Conv2dSubsampling):
    """The published front-end (arXiv 2407.18930, section 4.1): time / 4.

    Two pairs of 3×3 convolutions with 32, 64, 64 and 32 channels, each pair followed
    by ReLU and max-pooling over two frames; the frequency axis keeps its length. Padded
    frames are zero wherever a convolution reads them, so that an output does not
    depend on what else is in the batch.

    Args:
        idim: Feature dimension.
        odim: Output dimension.
        dropout_rate: Not used without `pos_enc`, as in the stock class.
        pos_enc: Positional encoding.
    """

    def __init__(
        self,
        idim: int,
        odim: int,
        dropout_rate: float,
        pos_enc: torch.nn.Module | None = None,
    ):
        # A `conv2d` with other layers: ESPnet's encoders hand the mask only to classes
        # that they know (`isinstance`), and refuse too short inputs for these.
        super().__init__(idim, odim, dropout_rate, pos_enc)
        channels = [1, 32, 64, 64, 32]
        self.conv = torch.nn.ModuleList(
            torch.nn.Conv2d(i, o, 3, padding=1) for i, o in zip(channels, channels[1:])
        )
        # Frequency is neither strided nor pooled: all `idim` bins of every channel.
        self.out = torch.nn.Linear(channels[-1] * idim, odim)

    def forward(self, x: torch.Tensor, x_mask: torch.Tensor | None):
        """Subsample.

        Args:
            x: [B, T, idim].
            x_mask: [B, 1, T], True = valid frame, or None.

        Returns:
            [B, T // 4, odim] (with positions, if these are relative) and its mask.
        """
        x = x.unsqueeze(1)  # [B, T, F] -> [B, 1, T, F]
        for i, conv in enumerate(self.conv):
            # A bias makes padding non-zero, and the next convolution would read it.
            if x_mask is not None:
                x = x.masked_fill(~x_mask.bool().unsqueeze(-1), 0.0)
            x = conv(x)
            if i % 2:
                # [B, C, T, F] -> [B, C, T // 2, F]; lengths follow from kernel size and
                # stride of the pooling: the convolutions are padded.
                x = torch.nn.functional.max_pool2d(torch.relu(x), (2, 1))
                x_mask = _subsample_mask(x_mask, x.size(2), ((2, 2),))
        # [B, C, T // 4, F] -> [B, T // 4, C · F] -> [B, T // 4, odim]
        x = self.out(x.transpose(1, 2).flatten(2))
        return self.pos_enc(x), x_mask


class SeparableConv2dSubsampling(Conv2dSubsampling):
    """`conv2d` whose second convolution is depthwise separable: time / 4.

    The second convolution is most of the cost of `conv2d`, and this about a ninth of
    it. Shapes, lengths and the rest are those of `conv2d`.

    Args:
        idim: Feature dimension.
        odim: Output dimension.
        dropout_rate: Not used without `pos_enc`, as in the stock class.
        pos_enc: Positional encoding.
    """

    def __init__(
        self,
        idim: int,
        odim: int,
        dropout_rate: float,
        pos_enc: torch.nn.Module | None = None,
    ):
        super().__init__(idim, odim, dropout_rate, pos_enc)
        self.conv = _separable(odim)


class SeparableWithoutPositions(Conv2dSubsamplingWOPosEnc):
    """The same for streaming encoders, which add positions afterwards.

    Args:
        idim: Feature dimension.
        odim: Output dimension.
        dropout_rate: Not used, as in the stock class.
        pos_enc: None.
    """

    def __init__(self, idim: int, odim: int, dropout_rate: float, pos_enc: None = None):
        super().__init__(idim, odim, dropout_rate, kernels=[3, 3], strides=[2, 2])
        self.conv = _separable(odim)


def _separable(odim: int) -> torch.nn.Sequential:
    # Kernels and strides along time and frequency are those of `conv2d`, so its
    # `forward`, its lengths and the shape of `out` hold.
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, odim, 3, 2),
        torch.nn.ReLU(inplace=True),
        torch.nn.Conv2d(odim, odim, 3, 2, groups=odim),
        torch.nn.Conv2d(odim, odim, 1),
        torch.nn.ReLU(inplace=True),
    )


FRONT_ENDS = {"vgg": VGGSubsampling, "separable_conv2d": SeparableConv2dSubsampling}
# Of streaming encoders
STREAMING_FRONT_ENDS = {"separable_conv2d": SeparableWithoutPositions}


def least_frames(embed: torch.nn.Module | None) -> int:
    """The shortest features that a subsampling takes."""
    if isinstance(embed, Conv2dSubsamplingWOPosEnc):
        frames = 1
        for kernel, stride in zip(embed.kernels[::-1], embed.strides[::-1]):
            frames = (frames - 1) * stride + kernel
        return frames
    too_short, frames = check_short_utt(embed, 0)
    return frames if too_short else 1


def stft_samples(stft: Stft, frames: int) -> int:
    """The shortest audio of which a Fourier transform makes so many frames."""
    length = (frames - 1) * stft.hop_length + stft.n_fft
    if not stft.center:
        return length
    margin = stft.n_fft // 2  # mirrored at both ends, for which more is needed
    return max(length - 2 * margin, margin + 1)


class SharedFrontEnd:
    """Mixin for an encoder's `embed`: one run serves all subnets of a step.

    Attributes:
        switch: Says whether, and what, is remembered.
    """

    def forward(self, *inputs):
        """As the stock module, or what it has returned before for this batch."""
        memo = self.switch.memo
        # None: nothing is to be remembered. Empty: this is the first pass.
        if memo:
            return memo[0]
        # ESPnet's positional encoding replaces its table for a longer input, or one of
        # another type or device: threads take turns.
        with self.switch.lock:
            out = super().forward(*inputs)
        if memo is not None:
            memo.append(out)
        return out


def share_front_end(embed: torch.nn.Module, switch: Switch) -> None:
    """Turn `embed` into a front-end whose output the switch can remember."""
    swap_class(embed, SharedFrontEnd)
    embed.switch = switch
