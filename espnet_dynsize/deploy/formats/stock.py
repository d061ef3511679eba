"""Turn an extracted model into one that plain ESPnet opens."""

import copy

import torch

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.keys import (
    ENCODER_KEYS,
    ENCODER_PREFIX,
    has_kaldi,
    of_transducer_task,
)
from espnet_dynsize.deploy.experiment import build_model
from espnet_dynsize.encoder.front_end import FRONT_ENDS
from espnet_dynsize.encoder.kinds import KINDS

_LAYER_OF = {module: name for name, kind in KINDS.items() for module in kind.modules}
BLOCK = "encoder.encoders.{}."


def to_stock(config: dict, states: dict) -> tuple[dict, dict, str]:
    """Rewrite an extracted model for the stock encoder.

    Blocks without any layer are left out where that computes the same: a block stays
    whose norms still compute (a final norm without `skip_empty_blocks`, or norms after
    the layers). There, as in a block that lost some of its layers, the dropped layers
    get zero weights.

    Args:
        config: Config of an extracted model.
        states: Its state dict.

    Returns:
        Stock config, stock state dict, and a sentence on what was done.

    Raises:
        ConfigError: a convolution module is kept whose norm stock ESPnet lacks, single
            components are, or a skipped block would have to stay.
    """
    if config["encoder_conf"].get("keep_components") is not None:
        raise ConfigError(
            "format=stock is not for granularity=component: all layers of a stock "
            "encoder have the same shape."
        )
    if of_transducer_task(config):
        raise ConfigError(
            "format=stock is not for encoder=dynsize_chunked yet; ESPnet's scripts "
            "open the plugin's format with `espnet-dynsize run`."
        )
    if has_kaldi(config):
        raise ConfigError(
            "format=stock is not for frontend=kaldi, which stock ESPnet lacks."
        )
    _check_stock_parts(config["encoder_conf"])
    _check_conv_norm(config["encoder_conf"], states)
    config = copy.deepcopy(config)
    conf = config["encoder_conf"]
    # Blocks are numbered: those after a gap move up.
    gone = _removable_blocks(conf, states)
    config["encoder"] = config["encoder"].removeprefix(ENCODER_PREFIX)
    for key in ENCODER_KEYS:
        conf.pop(key, None)
    states = _without_blocks(states, gone, conf["num_blocks"])
    conf["num_blocks"] -= len(gone)
    model = build_model(config)
    template = model.state_dict()
    _check_final_norms(template, states)
    zeroed = _zeroed_layers(template, states)
    states = {n: states.get(n, torch.zeros_like(v)) for n, v in template.items()}
    note = f"{len(gone)} whole blocks left out, {len(zeroed)} dropped layers zeroed"
    return config, states, f"{note}; {_savings(model, len(gone))}"


def _savings(model: torch.nn.Module, gone: int) -> str:
    """What is left of the full model: users take a cut model for a smaller one.

    Args:
        model: In stock format.
        gone: Blocks that were left out.
    """
    if not gone:
        return "neither smaller nor faster than the full model"
    block = sum(p.numel() for p in model.encoder.encoders[0].parameters())
    left = sum(p.numel() for p in model.parameters())
    return f"{left:,} of the full model's {left + gone * block:,} parameters are left"


def _check_stock_parts(conf: dict) -> None:
    if conf.get("convolution_first", False):
        raise ConfigError(
            "format=stock is not for convolution_first: stock ESPnet has the attention "
            "first."
        )
    if not conf.get("init_average", True):
        raise ConfigError(
            "format=stock is not for init_average: false, with which stock ESPnet "
            "fails."
        )
    if conf.get("input_layer") in FRONT_ENDS:
        raise ConfigError(
            f"format=stock is not for input_layer={conf['input_layer']}, which stock "
            "ESPnet lacks."
        )


def _check_conv_norm(conf: dict, states: dict) -> None:
    kept = any(".conv_module." in name for name in states)
    if kept and conf.get("conv_norm", "batch_norm") != "batch_norm":
        raise ConfigError(
            "format=stock needs conv_norm: batch_norm in the supernet's config; stock "
            "ESPnet has no LayerNorm in its convolution module."
        )


def _removable_blocks(conf: dict, states: dict) -> list[int]:
    """The blocks of which nothing is left, not even a norm."""
    if conf.get("interctc_layer_idx"):
        return []
    blocks = range(conf["num_blocks"])
    kept = {i for i in blocks if any(n.startswith(BLOCK.format(i)) for n in states)}
    # ESPnet has no encoder without blocks.
    gone = [i for i in blocks if i not in kept]
    return gone if kept else gone[1:]


def _without_blocks(states: dict, gone: list[int], num_blocks: int) -> dict:
    """Leave out the blocks `gone` and number the others anew."""
    kept = [i for i in range(num_blocks) if i not in gone]
    renamed: dict[str, torch.Tensor] = {
        n: v for n, v in states.items() if not n.startswith("encoder.encoders.")
    }
    for new, old in enumerate(kept):
        for name, value in states.items():
            if name.startswith(BLOCK.format(old)):
                renamed[BLOCK.format(new) + name[len(BLOCK.format(old)) :]] = value
    return renamed


def _check_final_norms(template: dict, states: dict) -> None:
    """Refuse a block that is skipped whole but has to stay: it would put out zeros."""
    for name in template:
        if ".norm_final." in name and name not in states:
            raise ConfigError(
                "format=stock is not for skip_empty_blocks where a block without "
                "layers has to stay (interctc_layer_idx, or no layers at all): stock "
                "ESPnet computes its final norm."
            )


def _zeroed_layers(template: dict, states: dict) -> set[tuple[str, str]]:
    """The layers, as block and kind, that only the template has."""
    missing = [n.split(".") for n in template if n not in states]
    parts = [n[2:4] for n in missing if n[:2] == ["encoder", "encoders"]]
    return {(block, _LAYER_OF[name]) for block, name in parts if name in _LAYER_OF}
