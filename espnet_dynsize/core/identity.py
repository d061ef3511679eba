"""What a supernet is recognised by in its checkpoints, beyond names and shapes."""

import hashlib
import inspect
import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence

import torch

from espnet_dynsize.core.keys import KALDI
from espnet_dynsize.core.rate import hertz

# Options whose values say what weights mean; a row of the buffer each, in this order.
# New ones go to the end.
KEYS = (
    *("sizes", "budgets", "selector", "selector_conf"),
    *("frontend", "frontend_conf", "normalize", "normalize_conf"),
    *("preencoder", "preencoder_conf", "encoder", "encoder_conf"),
    *("postencoder", "postencoder_conf", "decoder", "decoder_conf"),
    *("joint_net_conf", "token_list", "sparsity", "contexts"),
)
# Rows of the buffer: with some to spare, so that epochs of two versions can be averaged
ROWS = 32
# Front-ends whose options are known; others load models from where these lie
_FRONT_ENDS = ("default", "sliding_window", KALDI, None)
# How the same numbers are computed, how long inputs may be, what only training does
_NEVER_MATTER = (
    *("use_sdpa", "use_flash_attn", "gradient_checkpoint_layers", "max_pos_emb_len"),
    *("stochastic_depth_rate", "layer_drop_rate", "sampling_probability"),
)
_LONGEST = 300  # characters of a value in a message


def unknown() -> torch.Tensor:
    """The identity [ROWS, 4] of what is not known."""
    return torch.full((ROWS, 4), math.nan)


def fingerprints(options: Mapping[str, object]) -> torch.Tensor:
    """The identity [ROWS, 4] of a model with these options.

    Args:
        options: Key → value; what is missing is not known.
    """
    rows = unknown()
    for row, key in zip(rows, KEYS):
        if key in options:
            text = json.dumps(canonical(options[key]) or None, sort_keys=True)
            digest = hashlib.sha256(text.encode()).digest()[:8]
            # Averages over up to 256 epochs are exact for integers below 2**16.
            row.copy_(torch.tensor(struct.unpack(">4H", digest)))
    return rows


def difference(options: Mapping[str, object], given: torch.Tensor) -> str | None:
    """What a checkpoint's identity says against `options`; None if nothing.

    Args:
        options: The model's.
        given: [ROWS, 4] of the checkpoint.
    """
    if given.dtype not in (torch.float32, torch.float64):  # a copy that has lost digits
        return None
    rows = list(zip(KEYS, fingerprints(options), given))
    # First: with contexts, block sizes are no part of encoder_conf.
    rows.sort(key=lambda row: row[0] != "contexts")
    for key, own, other in rows:
        known = not (own.isnan().any() or other.isnan().any())
        # Other ways of averaging than ESPnet's are not exact.
        if known and not torch.allclose(own, other.to(own), atol=0.5, rtol=0):
            value = str(options[key])
            if len(value) > _LONGEST:
                value = f"{value[:_LONGEST]} …"
            return f"is of a model with another {key} than {value}"
    return None


def that_matter(conf: Mapping | None, taker: Callable | None) -> dict:
    """The options that change what is computed, without those at their defaults.

    Args:
        conf: Options.
        taker: The class that gets them. That a later version has more options, or a
            config names a default, makes no difference. `plain_conf` of its own says
            that of options in sections.
    """
    defaults = {} if taker is None else inspect.signature(taker).parameters
    conf = dict(conf or {})
    if hasattr(taker, "plain_conf"):
        conf = taker.plain_conf(conf)
    if not conf.get("interctc_use_conditioning"):
        conf.pop("interctc_layer_idx", None)  # only has losses
    if "fs" in conf:  # 16k
        conf["fs"] = hertz(conf["fs"])
    return {
        key: value
        for key, value in conf.items()
        if not (
            key in defaults and canonical(defaults[key].default) == canonical(value)
        )
        and not ("dropout" in key or key in _NEVER_MATTER)
        # Where a file lies; what is in it is in the checkpoint.
        and not key.endswith(("_file", "_dir"))
    }


def describe(parts: Mapping[str, tuple]) -> dict[str, object]:
    """The options that tell the parts of a model apart, as `fingerprints` takes them.

    Args:
        parts: Key of `KEYS` → name, options and class of what was chosen, or None.
    """
    known: dict[str, object] = {}
    for key, (name, conf, taker) in parts.items():
        known[key] = name
        if key != "frontend" or name in _FRONT_ENDS:
            known[f"{key}_conf"] = that_matter(conf, taker) if taker else None
    return known


def canonical(value: object) -> object:
    """Plain lists, sections and numbers, also out of OmegaConf; 1.0 is 1."""
    if isinstance(value, Mapping):
        return {str(key): canonical(part) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [canonical(part) for part in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    plain = value is None or isinstance(value, bool | int | float | str)
    return value if plain else str(value)
