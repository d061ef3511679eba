"""`dynsize_chunked`: the encoder of ESPnet's `asr_transducer` as a supernet."""

import copy
import inspect
from collections.abc import Mapping

import torch
from espnet2.asr_transducer.activation import get_activation
from espnet2.asr_transducer.encoder.building import build_main_parameters
from espnet2.asr_transducer.encoder.encoder import Encoder
from espnet2.asr_transducer.encoder.validation import validate_architecture
from espnet2.asr_transducer.utils import make_chunk_mask

from espnet_dynsize.core.errors import check
from espnet_dynsize.core.schema import check_value
from espnet_dynsize.encoder.chunked_block import BLOCKS, ChunkedBlock
from espnet_dynsize.encoder.norm import ConvNorm, set_conv_norm
from espnet_dynsize.encoder.supernet import Supernet
from espnet_dynsize.encoder.swap import swap_class

# Options that ESPnet reads; it takes others without a word.
_MAIN = {
    *inspect.signature(build_main_parameters).parameters,
    *inspect.signature(get_activation).parameters,
} - {"activation_parameters", "activation_type"}
_INPUT = {"vgg_like", "conv_size", "subsampling_factor", "output_size"}
_OF_BLOCKS = {
    *("block_type", "num_blocks", "hidden_size", "linear_size", "dropout_rate"),
    *("heads", "att_dropout_rate", "conv_mod_kernel_size", "conv_mod_norm_eps"),
    *("norm_eps", "norm_partial"),
}
_BODY = {
    "branchformer": _OF_BLOCKS | {"conv_mod_norm_partial"},
    "conformer": _OF_BLOCKS | {"pos_wise_dropout_rate", "conv_mod_norm_momentum"},
    "ebranchformer": _OF_BLOCKS
    | {"conv_mod_norm_partial", "pos_wise_dropout_rate", "depth_conv_kernel_size"},
    "conv1d": {
        *("block_type", "num_blocks", "output_size", "kernel_size", "stride"),
        *("dilation", "groups", "bias", "relu", "batch_norm", "dropout_rate"),
    },
}
# What blocks cannot do without
_NEEDED = ("hidden_size", "linear_size", "conv_mod_kernel_size")
_NEEDED_OF = {"conv1d": ("output_size", "kernel_size")}
# Of blocks, which no signature says
_DEFAULTS = {
    **{"heads": 4, "stride": 1, "dilation": 1, "groups": 1},
    **{"bias": True, "relu": True, "batch_norm": False},
}
# Which chunks are drawn, how statistics move, how long inputs may be
_ONLY_TRAINING = {
    *("short_chunk_threshold", "short_chunk_size", "num_left_chunks"),
    *("conv_mod_norm_momentum", "pos_enc_max_len"),
}


class LockedPositions:
    """Mixin for the positional encoding.

    Attributes:
        switch: Its lock is held: ESPnet replaces the table for longer inputs.
    """

    def forward(self, x: torch.Tensor, left_context: int = 0) -> torch.Tensor:
        """As the stock module."""
        with self.switch.lock:
            return super().forward(x, left_context)


class SharedChunks:
    """Mixin for the stack of blocks: all subnets of a batch see the same chunks.

    ESPnet draws their size in every pass, in validation, too: a teacher would see more
    or less than who learns from it, and epochs would be chosen by what was drawn.

    Attributes:
        switch: Says whether subnets share a batch.
        valid_chunks: Their size in validation and how many before one are seen.
    """

    def forward(
        self,
        x: torch.Tensor,
        pos_enc: torch.Tensor,
        mask: torch.Tensor,
        chunk_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As the stock module."""
        memo = self.switch.memo
        if memo and chunk_mask is not None:
            if len(memo) == 1:  # the first pass, of which `embed` has returned this
                memo.append(chunk_mask if self.training else self._valid(x))
            chunk_mask = memo[1]
        return super().forward(x, pos_enc, mask, chunk_mask=chunk_mask)

    def _valid(self, x: torch.Tensor) -> torch.Tensor:
        size, before = self.valid_chunks
        return make_chunk_mask(x.size(1), size, before, device=x.device)


class DynSizeChunkedEncoder(Supernet, Encoder):
    """ESPnet's encoder of Conformer, Branchformer and E-Branchformer blocks.

    For ESPnet's task `asr_transducer`. With `main_conf: dynamic_chunk_training` it also
    encodes chunk by chunk: all subnets of an update see chunks of one size that is
    drawn, in validation of `short_chunk_size` frames. Of `conv1d` blocks, nothing is
    left out.

    Args:
        input_size: Feature dimension.
        body_conf: Blocks, see ESPnet.
        input_conf: The front-end.
        main_conf: What they have in common.
        conv_norm: Norm in the convolution module of Conformer blocks, see
            `DynSizeConformerEncoder`.
        **options: Options of `Supernet`.

    Raises:
        ConfigError: a value is not allowed.
    """

    def __init__(
        self,
        input_size: int,
        body_conf: list,
        input_conf: dict | None = None,
        main_conf: dict | None = None,
        conv_norm: ConvNorm = "batch_norm",
        **options,
    ):
        main, front = main_conf or {}, input_conf or {}
        _check_options(body_conf, front, main)
        # Of heads, ESPnet's attention here has no number that could follow.
        given = options.get("granularity", "layer")
        allowed = "layer for this encoder"
        check(given == "layer", "encoder_conf: granularity", given, allowed)
        # ESPnet writes into them what is left out.
        parts = copy.deepcopy(dict(body_conf=body_conf, input_conf=front))
        super().__init__(input_size, **parts, main_conf=dict(main), **options)
        swap_class(self.pos_enc, LockedPositions)
        self.pos_enc.switch = self.switch
        swap_class(self.encoders, SharedChunks)
        self.encoders.switch = self.switch
        self.encoders.valid_chunks = self.short_chunk_size, self.num_left_chunks
        set_conv_norm(self.blocks, conv_norm)

    @classmethod
    def plain_conf(cls, conf: Mapping) -> dict:
        """The options without what says the same in other words, or only trains.

        Args:
            conf: Of a model that can be built.
        """
        front = dict(conf.get("input_conf") or {})
        body = [dict(block) for block in conf["body_conf"]]
        # It writes what is left out; of how many features makes no difference.
        validate_architecture(front, body, input_size=80)
        blocks = []
        for block in body:
            kernel = block.get("conv_mod_kernel_size")
            defaults = _DEFAULTS | {"depth_conv_kernel_size": kernel}
            blocks += (block.pop("num_blocks", None) or 1) * [_told(block, defaults)]
        signatures = (build_main_parameters, get_activation)
        known = [inspect.signature(taker).parameters for taker in signatures]
        defaults = {key: p.default for taken in known for key, p in taken.items()}
        main = _told(conf.get("main_conf") or {}, defaults)
        plain = {"input_conf": front, "body_conf": blocks, "main_conf": main}
        return {**conf, **plain}

    @property
    def stock_blocks(self) -> list[torch.nn.Module]:
        return [b for b in self.encoders.blocks if isinstance(b, tuple(BLOCKS))]

    def block_of(self, block: torch.nn.Module) -> type[ChunkedBlock]:
        return BLOCKS[type(block)]


def _told(section: Mapping, defaults: Mapping) -> dict:
    """A section's keys that change what is computed."""
    return {
        key: value
        for key, value in section.items()
        if not ("dropout" in key or key in _ONLY_TRAINING)
        and value is not None
        and (key not in defaults or value != defaults[key])
    }


def _check_options(body: list, front: dict, main: dict) -> None:
    check_value("encoder_conf: body_conf", body, list[dict])
    check(bool(body), "encoder_conf: body_conf", body, "a list of blocks")
    kinds = [block.get("block_type") for block in body]
    for kind in kinds:
        good = kind in _BODY
        check(good, "encoder_conf: body_conf: block_type", kind, f"of {list(_BODY)}")
    allowed = "of at least one block of other kinds"
    check(set(kinds) != {"conv1d"}, "encoder_conf: body_conf", kinds, allowed)
    sections = [("main_conf", main, _MAIN), ("input_conf", front, _INPUT)]
    sections += [("body_conf", block, _BODY[kind]) for kind, block in zip(kinds, body)]
    for name, section, known in sections:
        for key in section:
            allowed = f"one of {sorted(known)}"
            check(key in known, f"encoder_conf: {name}: a key", key, allowed)
    for place, block in enumerate(body):
        needed = _NEEDED_OF.get(kinds[place], _NEEDED)
        given = [key for key in ("num_blocks", "heads") if block.get(key) is not None]
        for key in (*needed, *given):
            allowed = "given, above 0"
            value = block.get(key)
            good = type(value) is int and value > 0
            check(good, f"encoder_conf: body_conf: {key}", value, allowed)
        # Before all others, it computes the same for every subnet.
        good = not block.get("batch_norm") or set(kinds[:place]) <= {"conv1d"}
        allowed = "false after other blocks: sizes would share its statistics"
        check(good, "encoder_conf: body_conf: batch_norm", True, allowed)
    rate = main.get("blockdrop_rate", 0.0)
    allowed = "0: use layer_drop_joint, which knows the subnets"
    check(not rate, "encoder_conf: main_conf: blockdrop_rate", rate, allowed)
