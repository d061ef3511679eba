"""Every option of the plugin with values that it does not allow."""

import argparse
import math
import warnings

import pytest
import torch
import yaml
from conftest import model_config
from experiment import experiment

import espnet_dynsize
from espnet_dynsize.control.selection import Search
from espnet_dynsize.control.selectors import SELECTORS
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.keys import ENCODER_KEYS, FAMILY_KEYS
from espnet_dynsize.core.schema import annotations, fits
from espnet_dynsize.encoder.conformer import DynSizeConformerEncoder
from espnet_dynsize.train.check import check_config
from espnet_dynsize.train.model import JointLoss
from espnet_dynsize.train.task import DynSizeASRTask

VALUES = [
    *(math.nan, math.inf, -math.inf, -1, 0, 1, 1.5, 10**30, 1e300),
    *(True, False, None, "", "x", "1", "false", "nan"),
    *([], {}, [1], ["x"], [True], [math.nan], [[]], [3, 5, 8], [8, 3]),
    *({"a": 1}, {"flops": 0.5}, {"flops": [0.5, 1]}, {"flops": ["x"]}, {1: 2}),
]
TAKERS = {"model_conf": (JointLoss, FAMILY_KEYS)}
TAKERS["encoder_conf"] = (DynSizeConformerEncoder, ENCODER_KEYS)


def options() -> list[tuple[str, str, str, object]]:
    """Section, selector, key and annotation of every option."""
    found = [
        (section, "simple_top_k", key, annotations(taker)[key])
        for section, (taker, keys) in TAKERS.items()
        for key in keys
        if key in annotations(taker)
    ]
    for name, selector in SELECTORS.items():
        for taker in (selector, Search):
            hints = {k: v for k, v in annotations(taker).items() if k != "family"}
            found += [("selector_conf", name, key, hint) for key, hint in hints.items()]
    return found


OPTIONS = options()
every_option = pytest.mark.parametrize(
    "section, selector, key, annotation",
    OPTIONS,
    ids=[f"{section}-{selector}-{key}" for section, selector, key, _ in OPTIONS],
)


def with_value(config: dict, section: str, selector: str, key: str, value) -> dict:
    model_conf = dict(config["model_conf"], selector=selector)
    config = dict(config, model_conf=model_conf)
    if section == "selector_conf":
        model_conf["selector_conf"] = {key: value}
    else:
        config[section] = {**config[section], key: value}
    return config


@every_option
def test_what_is_not_allowed_is_named(section, selector, key, annotation):
    """In one sentence, by ESPnet2, ESPnet3 and `load`, which build, and by `recipe`."""
    espnet_dynsize.register()
    whole = model_config()
    for value in VALUES:
        config = with_value(whole, section, selector, key, value)
        allowed = fits(value, annotation)
        for read in (check_config, build) if section != "selector_conf" else (build,):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    read(config)
            except ConfigError as error:
                text = str(error)
                assert key in text or allowed, (value, text)
                assert "\n" not in text and len(text) < 1000
            else:
                # What builds is of the right type and range.
                assert allowed, value


def build(config: dict) -> torch.nn.Module:
    return DynSizeASRTask.build_model(argparse.Namespace(**config))


@pytest.mark.parametrize("section", ["model_conf", "encoder_conf", "selector_conf"])
@pytest.mark.parametrize("key", ["size", "k_stepp", "", 3, None, "sizes "])
def test_unknown_keys(section, key):
    espnet_dynsize.register()
    config = with_value(model_config(), section, "simple_top_k", key, 1)
    with pytest.raises(ConfigError, match=f"{section}: .* is not an option of"):
        build(config)


@pytest.mark.parametrize("section", ["model_conf", "encoder_conf"])
@pytest.mark.parametrize("value", ["x", [1], 5, True], ids=str)
def test_sections_that_are_none(section, value):
    espnet_dynsize.register()
    with pytest.raises(ConfigError, match=f"{section}=.* must be a section of keys"):
        build(model_config() | {section: value})


@pytest.mark.parametrize(
    "section, key, value",
    [
        ("model_conf", "sizes", "8"),
        ("model_conf", "budgets", {"flops": [math.nan, 1]}),
        ("encoder_conf", "skip_empty_blocks", "false"),
        ("model_conf", "selector_conf", [1]),
        ("encoder_conf", "granularity", 1),
        ("encoder_conf", "conv_norm", ["layer_norm"]),
        ("encoder_conf", "keep_layers", []),
    ],
)
def test_load_names_the_option(tmp_path, section, key, value):
    folder, _ = experiment(tmp_path / "asr")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config[section][key] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match=key):
        espnet_dynsize.load(folder)
