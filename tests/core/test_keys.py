"""What a config says of the plugin, in the one place that knows."""

import inspect

import pytest

from espnet_dynsize.core import keys
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.encoder.conformer import DynSizeConformerEncoder
from espnet_dynsize.encoder.contextual import ContextualSupernet
from espnet_dynsize.encoder.supernet import Supernet
from espnet_dynsize.train.model import JointLoss


def options(cls) -> set[str]:
    return set(inspect.signature(cls.__init__).parameters) - {"self", "stock"}


def test_the_keys_are_the_options_of_the_classes():
    assert set(keys.FAMILY_KEYS) == options(JointLoss)
    own = options(Supernet) | options(DynSizeConformerEncoder)
    own |= options(ContextualSupernet) - {"block_size", "hop_size", "look_ahead"}
    assert set(keys.ENCODER_KEYS) == own - {"input_size", "options"}


@pytest.mark.parametrize("key", keys.MOVED_KEYS)
def test_a_key_of_version_0_1_is_told_its_new_place(key):
    with pytest.raises(
        ConfigError, match=f"encoder_conf: {key} must be under model_conf"
    ):
        keys.refuse_moved({"num_blocks": 3, key: 5})


def test_family_keys_need_the_model():
    with pytest.raises(
        ConfigError, match="selector=first needs model: dynsize, not es"
    ):
        keys.check_model_keys({"model": "espnet", "model_conf": {"selector": "first"}})
    keys.check_model_keys({"model": "espnet", "model_conf": {"ctc_weight": 1.0}})


def test_sizes_of_budgets_are_per_cent():
    config = {"model_conf": {"budgets": {"flops": [0.333, 1]}, "sizes": None}}
    assert keys.is_family(config) and keys.family_sizes(config) == [33, 100]


@pytest.mark.parametrize(
    "conf, message",
    [
        ({"sizes": 8}, "sizes=8 must be a list, each a whole number, at least 1"),
        ({"sizes": "4 8"}, "sizes=4 8 must be a list"),
        ({"sizes": [True, 8]}, "must be a list"),
        ({"budgets": {"flops": 0.7}}, "each a list, each above 0 and at most 1"),
        ({"budgets": 0.7}, "budgets=0.7 must be a section of keys"),
        ({"budgets": {"flops": [1], "params": [1]}}, "a section of one key"),
    ],
)
def test_what_names_no_sizes(conf, message):
    with pytest.raises(ConfigError, match=message):
        keys.family_sizes({"model_conf": conf})
