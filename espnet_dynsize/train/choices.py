"""The encoders, front-ends and models that the plugin adds to ESPnet's choices."""

from collections.abc import Mapping

from espnet_dynsize.core.keys import CHUNKED, KALDI, MODEL, of_transducer_task
from espnet_dynsize.encoder.chunked import DynSizeChunkedEncoder
from espnet_dynsize.encoder.conformer import DynSizeConformerEncoder
from espnet_dynsize.encoder.contextual import (
    DynSizeContextualBlockConformerEncoder,
    DynSizeContextualBlockTransformerEncoder,
)
from espnet_dynsize.encoder.e_branchformer import DynSizeEBranchformerEncoder
from espnet_dynsize.encoder.kaldi import KaldiFrontend
from espnet_dynsize.encoder.transformer import DynSizeTransformerEncoder
from espnet_dynsize.train.model import DynSizeASRModel
from espnet_dynsize.train.transducer_model import DynSizeASRTransducerModel

ENCODERS = {
    "dynsize_conformer": DynSizeConformerEncoder,
    "dynsize_contextual_block_conformer": DynSizeContextualBlockConformerEncoder,
    "dynsize_contextual_block_transformer": DynSizeContextualBlockTransformerEncoder,
    "dynsize_e_branchformer": DynSizeEBranchformerEncoder,
    "dynsize_transformer": DynSizeTransformerEncoder,
}
MODELS = {MODEL: DynSizeASRModel}
FRONTENDS = {KALDI: KaldiFrontend}
# Of ESPnet's task `asr_transducer`
CHUNKED_ENCODERS = {CHUNKED: DynSizeChunkedEncoder}
TRANSDUCERS = {MODEL: DynSizeASRTransducerModel}
# What a packed config has after the name of its encoder or front-end, so that ESPnet,
# which repeats names that it does not know, tells users without the plugin what is
# missing.
INSTALL_HINT = " (needs the plugin espnet_dynsize)"
# The hint that version 0.1 wrote
_OLD_HINT = " (pip install espnet-dynsize)"


def plain_name(part: object) -> str:
    """The name of an encoder or front-end without the hint."""
    return str(part).removesuffix(INSTALL_HINT).removesuffix(_OLD_HINT)


def choices_of(config: Mapping) -> tuple[dict[str, type], dict[str, type]]:
    """The encoders and models of the task that a config is for, by name."""
    if of_transducer_task(config):
        return CHUNKED_ENCODERS, TRANSDUCERS
    return ENCODERS, MODELS


def names_with_hints(choices: Mapping[str, type]) -> dict[str, type]:
    """All names that a config may have for encoders or front-ends."""
    hints = ("", INSTALL_HINT, _OLD_HINT)
    return {n + hint: c for n, c in choices.items() for hint in hints}
