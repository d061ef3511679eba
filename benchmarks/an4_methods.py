"""What an4_family.py trains: every method as options of the recipe's configs."""

import json
from pathlib import Path

from espnet_dynsize.core.keys import FAMILY_KEYS

CONF = Path(__file__).resolve().parents[1] / "egs2" / "an4_dynsize" / "asr1" / "conf"
# Of a Conformer's block
KINDS = ("FFN 1", "attention", "convolution", "FFN 2")
INDIVIDUAL = "individual"
# Layers of the models trained alone, 1, 3 and 6 blocks of Conformers, 2, 4 and 6 of
# E-Branchformers: those with as many parameters as the sizes of families of both
WIDE, NARROW = (4, 12, 24), (8, 16, 24)
# Parts of the encoder's FLOPs that 1, 3 and 6 blocks have
FLOPS = (0.3835, 0.6301, 1)
_SIMPLE_TOP_K = {"selector": "simple_top_k", "selector_conf": {"search_fraction": 0.2}}
_LONG = {"selector_conf": {"search_fraction": 0.4}}
_LAYER_NORM = {"conv_norm": "layer_norm"}


def _changes(**options) -> dict:
    """Options of the encoder, of the family and of the joint step, by section."""
    sections: dict[str, dict] = {}
    for key, value in options.items():
        section = "model_conf" if key in FAMILY_KEYS else "encoder_conf"
        sections.setdefault(section, {})[key] = value
    return sections


# Method → what differs from its config (see CONFIGS)
SELECTORS = {
    "ortho_softmax": {},
    "simple_top_k": _changes(**_SIMPLE_TOP_K),
    # Scores can move six times their initial value in the search, as in the published
    # runs; with 10 and the weights' learning rate they would hardly move in this one.
    "iterative_zero_out": _changes(
        selector="iterative_zero_out",
        selector_conf={"search_fraction": 0.4, "initial_score": 3.0, "score_lr": 6.0},
    ),
    "uniform": _changes(selector="uniform", **_LONG),
    "first": _changes(selector="first", **_LONG),
    "random": _changes(selector="random", **_LONG),
    "aux-loss": {},
}
TRAINING = {
    "published joint step": _changes(
        sandwich="whole",
        distill_weight=0.0,
        selector="simple_top_k",
        **_LONG,
        **_LAYER_NORM,
    ),
    "simple_top_k, no distillation": _changes(distill_weight=0.0, **_SIMPLE_TOP_K),
    "not alternating": _changes(sandwich="whole"),
    "pairs": _changes(sandwich="pairs"),
    "pairs, layer_drop_joint 0.3": _changes(sandwich="pairs", layer_drop_joint=0.3),
    "layer_drop_joint 0.3": _changes(layer_drop_joint=0.3),
    "layer_norm": _changes(**_LAYER_NORM),
    "subnet_weight 0.6": _changes(subnet_weight=0.6),
    "separable_conv2d": _changes(input_layer="separable_conv2d"),
}
FAMILIES = {
    "ortho_softmax, components": _changes(granularity="component"),
    "as many FLOPs": _changes(budgets={"flops": FLOPS}),
    "as many layers": _changes(budgets=None, sizes=WIDE),
}
# Streaming Conformers → what differs from train_asr_streaming.yaml
STREAMING = {
    "streaming": {},
    "streaming, blocks of 0.8 s": _changes(block_size=20, hop_size=8, look_ahead=8),
    "whole utterances": _changes(block_size=0),
    "dual mode": _changes(contexts=["whole", "40/16/16", "20/8/8"], **_LAYER_NORM),
}
# Of `dual mode`, besides: method → context, and what is trained alone for it
IN_CONTEXTS = {
    "dual mode, blocks of 0.8 s": ("20/8/8", "streaming, blocks of 0.8 s"),
    "dual mode, whole utterances": ("whole", "whole utterances"),
}
# The recipe's own family
DEFAULT = "ortho_softmax"
# Other models, next to the Conformers all the same: their own config's name
MODELS = {
    **dict.fromkeys(STREAMING, "streaming"),
    "E-Branchformer": "e_branchformer",
    "CTC + attention": "hybrid",
    "transducer": "transducer",
}
# The same model as each, its smallest and its full size, trained alone
OWN_KIND = {method: f"{method}, alone" for method in MODELS if method != "dual mode"}
# Trained alone as what it is compared with
ALSO_OF = {"dual mode": OWN_KIND["streaming"]}
ALSO_OF |= {method: OWN_KIND[other] for method, (_, other) in IN_CONTEXTS.items()}
# Their encoder and their CTC begin as those of a trained CTC model of as many blocks,
# or of the family of such
FROM_CTC = ("CTC + attention", "transducer")
FINE_TUNED = "fine-tuned from the individual full size"
KALDI = "features of Kaldi"
SUPERNETS = {
    **{**SELECTORS, **TRAINING, **FAMILIES},
    **{method: {} for method in (FINE_TUNED, KALDI, *MODELS)},
    **STREAMING,
}
RUNNABLE = (INDIVIDUAL, *OWN_KIND.values(), *SUPERNETS)
# Rows of settings that are gone: an output layer for each size and subnet_weight 0.6,
# but where the name says otherwise
_EARLIER = (
    *("default", "pairs", "one output layer", "subnet_weight 0.3"),
    *("ortho_softmax", "ortho_softmax, components", "E-Branchformer"),
)
EARLIER = tuple(f"earlier: {name}" for name in _EARLIER)
# Those that differ in how layers are chosen, in pictures
SELECTION = (*SELECTORS, "earlier: default", "earlier: ortho_softmax")
METHODS = (*RUNNABLE, *IN_CONTEXTS, *EARLIER)
# Configs; of the others: dynsize
CONFIGS = {"aux-loss": "aux_loss", FINE_TUNED: "finetune", KALDI: "kaldi", **MODELS}
CONFIGS |= {alone: MODELS[method] for method, alone in OWN_KIND.items()}
DECODING = {"CTC + attention": "hybrid", "transducer": "transducer"}
DECODING |= {OWN_KIND[method]: name for method, name in DECODING.items()}
# What makes a stock model of a family's config
STOCK = {
    "model_conf": dict.fromkeys(
        ("sizes", "budgets", "selector", "selector_conf", "layer_drop_joint")
    )
}


def layers_of(method: str) -> tuple[int, ...]:
    """Layers of the models trained alone with which a method's sizes are compared."""
    return NARROW if method.startswith("E-Branchformer") else WIDE


def arguments(changes: dict) -> list[str]:
    """A method's changes as options of ESPnet's training command."""
    return [
        argument
        for option, conf in changes.items()
        for key, value in conf.items()
        for argument in (f"--{option}", f"{key}={json.dumps(value)}")
    ]


def base_of(method: str) -> str:
    """The models trained alone that a method is compared with; of those, themselves."""
    method = method.removeprefix("earlier: ")
    if method in OWN_KIND.values():
        return method
    return {**OWN_KIND, **ALSO_OF}.get(method, INDIVIDUAL)


def config_file(method: str) -> Path:
    """The supernet's config, to which the method's options are added."""
    return CONF / f"train_asr_{CONFIGS.get(method, 'dynsize')}.yaml"
