"""`dynsize_contextual_block_…`: ESPnet's streaming encoders as supernets.

Contextual block processing (arXiv 1910.07204): overlapping blocks of frames, of which
each hands its context, one vector a layer, to the next one.
"""

import itertools
from typing import Annotated

import torch
from espnet2.asr.encoder.contextual_block_conformer_encoder import (
    ContextualBlockConformerEncoder,
)
from espnet2.asr.encoder.contextual_block_transformer_encoder import (
    ContextualBlockTransformerEncoder,
)
from espnet2.legacy.nets.pytorch_backend.nets_utils import make_pad_mask
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling_without_posenc import (
    Conv2dSubsamplingWOPosEnc,
)

from espnet_dynsize.core.context import Context
from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.core.schema import Range, check_value
from espnet_dynsize.encoder.contextual_block import (
    BlockRows,
    ContextualConformerBlock,
    ContextualTransformerBlock,
)
from espnet_dynsize.encoder.front_end import STREAMING_FRONT_ENDS, least_frames
from espnet_dynsize.encoder.norm import ConvNorm, set_conv_norm
from espnet_dynsize.encoder.supernet import Supernet
from espnet_dynsize.encoder.swap import swap_class

# In ESPnet's state between chunks
_BUFFER = "buffer_before_downsampling"


class SharedPositions:
    """Mixin for the positional encoding.

    Attributes:
        switch: Its lock is held: ESPnet replaces the table for longer inputs.
    """

    def forward(self, x: torch.Tensor, start_idx: int = 0) -> torch.Tensor:
        """Add positions to [B, T, D], or to the maximum that `Tensor.max` returns."""
        x = x if torch.is_tensor(x) else x.values
        with self.switch.lock:
            return super().forward(x, start_idx)


class ContextualSupernet(Supernet):
    """A streaming encoder: blocks of `block_size` frames that begin `hop_size` apart.

    Sizes in frames, after subsampling. A block puts out `hop_size` frames, and has seen
    `look_ahead` frames after these.

    A subnet that is active with a context of its own has other sizes, see `Context`.

    Args:
        input_size: Feature dimension.
        block_size: Frames of a block; needed. With 0, whole utterances, it does not
            stream.
        hop_size: From one block to the next one; needed.
        look_ahead: Frames of a block after those that it puts out; needed.
        respect_lengths: Utterances in a padded batch are encoded as alone. With
            `false`, padding is a part of them, as in ESPnet.
        **stock: Options of `Supernet` and of the stock encoder.

    Raises:
        ConfigError: a value is not allowed, or one of the three sizes is missing.
    """

    front_ends = STREAMING_FRONT_ENDS

    def __init__(
        self,
        input_size: int,
        block_size: int | None = None,
        hop_size: int | None = None,
        look_ahead: int | None = None,
        respect_lengths: bool = True,
        **stock,
    ):
        sizes = dict(block_size=block_size, hop_size=hop_size, look_ahead=look_ahead)
        _check_sizes(**sizes)
        check_value("encoder_conf: respect_lengths", respect_lengths, bool)
        super().__init__(input_size, **sizes, **stock)
        for block in self.blocks:
            block.respect_lengths = respect_lengths
        self.respect_lengths = respect_lengths
        inside = self.embed if isinstance(self.embed, torch.nn.Sequential) else ()
        if any(isinstance(part, type(self.pos_enc)) for part in inside):
            # ESPnet's Conformer: once more, and from 0 in every chunk.
            raise ConfigError(
                "encoder_conf: input_layer=None must be a layer: positions would be "
                "added twice."
            )
        feed_forward = stock.get("positionwise_layer_type", "linear")
        if respect_lengths and feed_forward != "linear":
            raise ConfigError(
                f"encoder_conf: positionwise_layer_type={feed_forward} needs "
                "respect_lengths: false: its convolutions read the padding of short "
                "utterances."
            )
        swap_class(self.pos_enc, SharedPositions)
        self.pos_enc.switch = self.switch
        # ESPnet takes the maximum's indices along: only the encoding can drop them.
        good = self.init_average or self.ctx_pos_enc
        allowed = "true with init_average=false"
        check(good, "encoder_conf: ctx_pos_enc", self.ctx_pos_enc, allowed)

    @property
    def context(self) -> Context:
        """That of a subnet without one of its own."""
        if self.block_size == 0:
            return Context(0)
        return Context(self.block_size, self.hop_size, self.look_ahead)

    @property
    def _context_now(self) -> Context:
        active = self.switch.now
        own = active is None or active.context is None
        return self.context if own else active.context

    def forward_infer(
        self,
        xs_pad: torch.Tensor,
        ilens: torch.Tensor,
        prev_states: dict | None = None,
        is_final: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor, dict | None]:
        """Encode the next features of an utterance.

        Args:
            xs_pad: [1, L, D].
            ilens: [1].
            prev_states: What was returned for those before; None at the beginning.
            is_final: There are no others.

        Returns:
            The outputs [1, T, D] that are known by now, their number, and what is to be
            handed over with the next features.

        Raises:
            ConfigError: it does not stream, or something with another context computes.
            TooShortUttError: all of the utterance is too short for the subsampling.
        """
        good = self._context_now == self.context and not self.context.whole
        allowed = "the encoder's own, of blocks, to encode chunks"
        check(good, "context", self._context_now.name, allowed)
        before = None if prev_states is None else prev_states[_BUFFER]
        total = xs_pad.size(1) + (0 if before is None else before.size(1))
        if is_final:
            self._check_length(total)
        encoded, _, states = super().forward_infer(xs_pad, ilens, prev_states, is_final)
        if self.subsample == 1 and states is not None and total > 2:
            # ESPnet keeps two frames, of which it has encoded one.
            states[_BUFFER] = states[_BUFFER][:, 1:]
            states["ilens_buffer"] = states["ilens_buffer"] - 1
        # ESPnet says 0 of short utterances, or nothing.
        return encoded, ilens.new_tensor([encoded.size(1)]), states

    def _check_length(self, frames: int) -> None:
        least = least_frames(self.embed)
        if frames < least:
            message = f"has {frames} frames and needs at least {least}"
            raise TooShortUttError(message, frames, least)

    def forward_train(
        self,
        xs_pad: torch.Tensor,
        ilens: torch.Tensor,
        prev_states: None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Encode whole utterances.

        Args:
            xs_pad: Features [B, L, D].
            ilens: [B].
            prev_states: Not used, as in the stock encoder.

        Returns:
            [B, T, D], lengths [B] and None.

        Raises:
            TooShortUttError: the longest is too short for the subsampling.
        """
        self._check_length(xs_pad.size(1))
        mask = (~make_pad_mask(ilens)[:, None]).to(xs_pad.device)
        xs = xs_pad
        if isinstance(self.embed, Conv2dSubsamplingWOPosEnc):
            xs, mask = self.embed(xs, mask)
        elif self.embed is not None:
            xs = self.embed(xs)
        olens = mask.squeeze(1).sum(1)
        lengths = olens.tolist() if self.respect_lengths else [xs.size(1)] * len(xs)
        context = self._context_now
        if context.whole or max(lengths) <= context.block_size:
            ys, *_ = self.encoders(self.pos_enc(xs), mask, False, None, None)
        else:
            ys = self._encode_blocks(xs, lengths, context)
        return self.after_norm(ys) if self.normalize_before else ys, olens, None

    def _encode_blocks(
        self, xs: torch.Tensor, lengths: list[int], context: Context
    ) -> torch.Tensor:
        """Outputs [B, T, D] of frames that have no positions yet."""
        size, hop, ahead = context
        counts = [max(-(-(length - size) // hop), 0) + 1 for length in lengths]
        rows = BlockRows.of(counts, xs.device)
        ends = torch.tensor(lengths, device=xs.device)
        frames = rows.number[:, None] * hop + torch.arange(size, device=xs.device)
        inside = frames < ends[rows.utterance, None]  # [M, L]
        index = rows.utterance[:, None], frames.clamp(max=xs.size(1) - 1)
        # Frames that the last block of each utterance has
        left = [n - (count - 1) * hop for n, count in zip(lengths, counts)]
        vectors = self._vectors(xs[index], left, rows)  # [M, D]
        blocks = self.pos_enc(xs)[index] * inside.unsqueeze(-1)  # [M, L, D]
        around = vectors[rows.previous, None], blocks, vectors[:, None]
        mask = _attended(inside, (ends <= size)[rows.utterance])
        ys, *_ = self.encoders(torch.cat(around, dim=1), mask, False, rows)
        # Each frame from the first block that has it and what it looks ahead to; the
        # first block puts out what is before, the last one all that is left.
        frame = torch.arange(xs.size(1), device=xs.device)[None]  # [1, T]
        number = ((frame - size + ahead) // hop + 1).clamp(min=0)
        counted = torch.tensor(counts, device=xs.device)[:, None]
        number = number.minimum(counted - 1)  # [B, T]
        place = (frame - number * hop + 1).clamp(max=size)
        found = ys[counted.cumsum(0) - counted + number, place]
        return found.masked_fill((frame >= ends[:, None]).unsqueeze(-1), 0.0)

    def _vectors(
        self, blocks: torch.Tensor, left: list[int], rows: BlockRows
    ) -> torch.Tensor:
        """What each row hands over begins with, [M, D]: mean or maximum of its frames.

        Args:
            blocks: [M, L, D].
            left: Frames of each utterance's last one.
            rows: Which they are.
        """
        pool = torch.mean if self.init_average else torch.amax
        # A copy: a maximum's gradient needs what it was.
        vectors = pool(blocks, 1).clone()
        # One by one, and not as masked sums: then they are ESPnet's to the last bit.
        for row, number in zip(itertools.accumulate(rows.counts), left):
            # Of an utterance without frames, anything, but not the mean of nothing.
            vectors[row - 1] = pool(blocks[row - 1, : max(number, 1)], 0)
        if not self.ctx_pos_enc:
            return vectors
        index = rows.utterance, rows.number
        shape = len(rows.counts), max(rows.counts), vectors.size(-1)
        placed = vectors.new_zeros(shape).index_put(index, vectors)
        return self.pos_enc(placed)[index]


def _check_sizes(**sizes: int | None) -> None:
    for key, value in sizes.items():
        # ESPnet's streaming script looks for all three in the config.
        good = value is not None
        check(good, f"encoder_conf: {key}", value, "written in the config")
        least = 1 if key == "hop_size" else 0
        number = Annotated[int, Range(least)]
        check_value(f"encoder_conf: {key}", value, number)
    context = Context(**sizes)
    least = context.hop_size + context.look_ahead
    allowed = f"0 (whole utterances), or at least hop_size + look_ahead = {least}"
    good = context.whole or context.fits
    check(good, "encoder_conf: block_size", context.block_size, allowed)


def _attended(inside: torch.Tensor, short: torch.Tensor) -> torch.Tensor:
    """Which frame [M, L + 2, ·] attends to which [·, ·, L + 2].

    In blocks, all to all but what goes out, also to what is behind the end, as in
    ESPnet; what comes in attends to nothing. In a short utterance, all its frames to
    each other: it has no contexts.

    Args:
        inside: Frames that are in the utterance, [M, L].
        short: Rows that are a whole utterance, [M].
    """
    alone = torch.nn.functional.pad(inside, (1, 1))
    asks, asked = torch.ones_like(alone), torch.ones_like(alone)
    asks[:, 0], asked[:, -1] = False, False
    asks, asked = (torch.where(short[:, None], alone, x) for x in (asks, asked))
    return asks.unsqueeze(2) & asked.unsqueeze(1)


class DynSizeContextualBlockConformerEncoder(
    ContextualSupernet, ContextualBlockConformerEncoder
):
    """ESPnet's streaming Conformer; a block has up to four layers.

    Args:
        input_size: Feature dimension.
        conv_norm: See `DynSizeConformerEncoder`.
        **options: Options of `ContextualSupernet`, `Supernet` and the stock encoder.

    Raises:
        ConfigError: a value is not allowed.
    """

    block_class = ContextualConformerBlock

    def __init__(self, input_size: int, conv_norm: ConvNorm = "batch_norm", **options):
        super().__init__(input_size, **options)
        set_conv_norm(self.blocks, conv_norm)


class DynSizeContextualBlockTransformerEncoder(
    ContextualSupernet, ContextualBlockTransformerEncoder
):
    """ESPnet's streaming Transformer; a block has two layers."""

    block_class = ContextualTransformerBlock
