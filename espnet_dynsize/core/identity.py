"""What a supernet is recognised by in its checkpoints, beyond names and shapes."""

import hashlib
import inspect
import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence

import torch

# Options whose values say what weights mean; a row of the buffer each, in this order.
# New ones go to the end: the rows that an older checkpoint lacks are not known.
KEYS = (
    *("sizes", "budgets", "selector", "selector_conf"),
    *("frontend", "frontend_conf", "normalize", "normalize_conf"),
    *("preencoder", "preencoder_conf", "encoder", "encoder_conf"),
    *("postencoder", "postencoder_conf", "decoder", "decoder_conf"),
    *("joint_net_conf", "token_list"),
)
# How the same numbers are computed, how long inputs may be, what only training does
_NEVER_MATTER = (
    *("use_sdpa", "use_flash_attn", "gradient_checkpoint_layers", "max_pos_emb_len"),
    *("stochastic_depth_rate", "layer_drop_rate"),
)
_LONGEST = 60  # characters of a value in a message


def unknown(rows: int = len(KEYS)) -> torch.Tensor:
    """The identity [rows, 4] of what is not known."""
    return torch.full((rows, 4), math.nan)


def fingerprints(options: Mapping[str, object]) -> torch.Tensor:
    """The identity [len(KEYS), 4] of a model with these options.

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
        given: [len(KEYS), 4] of the checkpoint.
    """
    for key, own, other in zip(KEYS, fingerprints(options), given):
        known = not (own.isnan().any() or other.isnan().any())
        if known and not torch.equal(own, other):
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
            config names a default, makes no difference.
    """
    defaults = {} if taker is None else inspect.signature(taker).parameters
    return {
        key: value
        for key, value in (conf or {}).items()
        if not (key in defaults and defaults[key].default == value)
        and not ("dropout" in key or key in _NEVER_MATTER)
        # Where a file lies; what is in it is in the checkpoint.
        and not key.endswith(("_file", "_dir"))
    }


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
