"""Shared tiny models."""

import argparse
import os
from contextlib import contextmanager

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
import torch  # noqa: E402

import espnet_dynsize  # noqa: E402
from espnet_dynsize.core.family import family_of_counts  # noqa: E402
from espnet_dynsize.core.keys import FAMILY_KEYS  # noqa: E402
from espnet_dynsize.train.build import build_schedule  # noqa: E402
from espnet_dynsize.train.choices import ENCODERS  # noqa: E402
from espnet_dynsize.train.task import DynSizeASRTask  # noqa: E402

# The joint step as published: what the other ways are compared with
PUBLISHED_STEP = dict(sandwich="whole", subnet_weight=0.3, distill_weight=0.0)
TOKENS = ["<blank>", "<unk>", "A", "B", "C", "<sos/eos>"]


@pytest.fixture(autouse=True)
def _seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def encoder_conf(**changes) -> dict:
    """Two macaron blocks: eight layers."""
    conf = dict(
        output_size=8,
        attention_heads=2,
        linear_units=12,
        num_blocks=2,
        macaron_style=True,
        rel_pos_type="latest",
        cnn_module_kernel=3,
        input_layer="linear",
    )
    return {**conf, **changes}


def split(changes: dict) -> tuple[dict, dict]:
    """Options of the encoder, and of the family."""
    family = {k: v for k, v in changes.items() if k in FAMILY_KEYS}
    return {k: v for k, v in changes.items() if k not in FAMILY_KEYS}, family


def model_config(model_conf=None, **changes) -> dict:
    """A config as in `config.yaml`, for features of dimension 5.

    Args:
        model_conf: Options of the model.
        **changes: Options of the encoder or of the family.
    """
    # What a sequence becomes must not depend on the others in its batch.
    encoder, family = split({"sizes": [3, 5, 8], "conv_norm": "layer_norm", **changes})
    return dict(
        token_list=TOKENS,
        input_size=5,
        frontend=None,
        specaug=None,
        normalize=None,
        preencoder=None,
        encoder="dynsize_conformer",
        encoder_conf=encoder_conf(**encoder),
        postencoder=None,
        decoder=None,
        decoder_conf={},
        ctc_conf={},
        joint_net_conf=None,
        model="dynsize",
        model_conf={
            "ctc_weight": 1.0,
            **PUBLISHED_STEP,
            **family,
            **(model_conf or {}),
        },
        init=None,
    )


def stock_config() -> dict:
    """The same without the family: ESPnet's own Conformer."""
    config = model_config()
    del config["encoder_conf"]["conv_norm"]
    return config | dict(
        encoder="conformer", model="espnet", model_conf={"ctc_weight": 1.0}
    )


def build(config: dict):
    espnet_dynsize.register()
    return DynSizeASRTask.build_model(argparse.Namespace(**config))


def batch(size: int = 3, frames: int = 20) -> dict:
    return dict(
        speech=torch.randn(size, frames, 5),
        speech_lengths=torch.tensor([frames] + [frames - 4] * (size - 1)),
        text=torch.tensor([[2, 3, 4]] + [[3, 2, -1]] * (size - 1)),
        text_lengths=torch.tensor([3] + [2] * (size - 1)),
    )


def fix_masks(schedule) -> None:
    """Put a schedule into the joint phase with random scores."""
    selection = schedule.selection
    for scores in selection.selector.parameters():
        torch.nn.init.normal_(scores)
    selection.plan(None if selection.search.search_updates is not None else 10)
    selection.fixed_masks.copy_(selection.selector.masks())


def schedule(
    sizes=(3, 5, 8), sandwich="whole", plan=10, selector="simple_top_k", **conf
):
    """The schedule of eight layers, with a search of four updates of `plan`."""
    conf = {"search_updates": 4, **conf}
    built = build_schedule(
        family_of_counts(list(sizes), 8), selector, conf, sandwich=sandwich
    )
    built.selection.plan(plan)
    return built


@torch.no_grad()
def randomise(model, scale: float) -> None:
    """Move every parameter at random: what starts equal is no longer so."""
    for parameter in model.parameters():
        parameter.add_(scale * torch.randn_like(parameter))


@torch.no_grad()
def log_probs(model, data: dict) -> torch.Tensor:
    """CTC output [B, T, V] of a batch."""
    out, _ = model.encode(data["speech"], data["speech_lengths"])
    return model.ctc.log_softmax(out[0] if isinstance(out, tuple) else out)


def dynsize_encoder(input_size: int = 20, name: str = "conformer", **conf):
    """An encoder without a model around it."""
    return ENCODERS[f"dynsize_{name}"](input_size, **conf)


@pytest.fixture
def cuda_dtypes(monkeypatch):
    """A context manager: CUDA's mixed-precision types, on a CPU.

    CPU autocast leaves layer norms and softmaxes in half precision, CUDA's makes them
    float32; what takes one type only (index_add, in-place sums) fails on a GPU alone.
    """
    functional, tensor = torch.nn.functional, torch.Tensor
    made_full = [(functional, name) for name in ("layer_norm", "softmax")]
    made_full += [(o, "log_softmax") for o in (functional, torch, tensor)]
    made_full += [(o, "softmax") for o in (torch, tensor)]

    def full(function):
        def called(x, *args, **kwargs):
            args = [a.float() if torch.is_tensor(a) else a for a in args]
            return function(x.float(), *args, **kwargs)

        return called

    @contextmanager
    def dtypes():
        with monkeypatch.context() as patch, torch.autocast("cpu", torch.bfloat16):
            for owner, name in made_full:
                patch.setattr(owner, name, full(getattr(owner, name)))
            yield

    return dtypes
