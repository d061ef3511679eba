"""`dynsize_chunked`: the encoder of ESPnet's `asr_transducer` as a supernet."""

import copy
import inspect

import torch
from espnet2.asr_transducer.activation import get_activation
from espnet2.asr_transducer.encoder.building import build_main_parameters
from espnet2.asr_transducer.encoder.encoder import Encoder

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


class LockedPositions:
    """Mixin for the positional encoding.

    Attributes:
        switch: Its lock is held: ESPnet replaces the table for longer inputs.
    """

    def forward(self, x: torch.Tensor, left_context: int = 0) -> torch.Tensor:
        """As the stock module."""
        with self.switch.lock:
            return super().forward(x, left_context)


class DynSizeChunkedEncoder(Supernet, Encoder):
    """ESPnet's encoder of Conformer, Branchformer and E-Branchformer blocks.

    For ESPnet's task `asr_transducer`. With `main_conf: dynamic_chunk_training` it also
    encodes chunk by chunk. Of `conv1d` blocks, nothing is left out.

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
        set_conv_norm(self.blocks, conv_norm)

    @property
    def stock_blocks(self) -> list[torch.nn.Module]:
        return [b for b in self.encoders.blocks if isinstance(b, tuple(BLOCKS))]

    def block_of(self, block: torch.nn.Module) -> type[ChunkedBlock]:
        return BLOCKS[type(block)]


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
    rate = main.get("blockdrop_rate", 0.0)
    allowed = "0: use layer_drop_joint, which knows the subnets"
    check(not rate, "encoder_conf: main_conf: blockdrop_rate", rate, allowed)
