"""Shared tiny models."""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
import torch  # noqa: E402

import espnet_dynsize  # noqa: E402
from espnet_dynsize.task import DynSizeASRTask  # noqa: E402

# The joint step as published: what the other ways are compared with
PUBLISHED_STEP = dict(sandwich="whole", distill_weight=0.0)
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


def model_config(model_conf=None, **encoder_changes) -> dict:
    """A config as in `config.yaml`, for features of dimension 5."""
    # What a sequence becomes must not depend on the others in its batch.
    changes = {"sizes": [3, 5, 8], "conv_norm": "layer_norm", **encoder_changes}
    return dict(
        token_list=TOKENS,
        input_size=5,
        frontend=None,
        specaug=None,
        normalize=None,
        preencoder=None,
        encoder="dynsize_conformer",
        encoder_conf=encoder_conf(**changes),
        postencoder=None,
        decoder=None,
        decoder_conf={},
        ctc_conf={},
        joint_net_conf=None,
        model="dynsize",
        model_conf={"ctc_weight": 1.0, **PUBLISHED_STEP, **(model_conf or {})},
        init=None,
    )


def stock_config() -> dict:
    """The same without the family: ESPnet's own Conformer."""
    config = model_config()
    for key in ("sizes", "conv_norm"):
        del config["encoder_conf"][key]
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
    for scores in schedule.selector.parameters():
        torch.nn.init.normal_(scores)
    schedule.plan(None if schedule._requested_updates is not None else 10)
    schedule.fixed_masks.copy_(schedule.selector.masks())
