"""Every training yaml that ships builds a model, and its family can be cut."""

from pathlib import Path

import pytest
import yaml
from conftest import TOKENS, build, fix_masks

import espnet_dynsize
from espnet_dynsize.deploy.extract import subnet_states
from espnet_dynsize.task import DynSizeASRTask

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(
    [*ROOT.glob("espnet_dynsize/demo/*.yaml"), *ROOT.glob("egs2/*/*/conf/train_*.yaml")]
)


def full_config(path: Path) -> dict:
    """What ESPnet makes of the yaml: its defaults, then the yaml's values."""
    espnet_dynsize.register()
    config = DynSizeASRTask.get_default_config()
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(given) <= set(config), "a key that ESPnet does not know"
    return {**config, **given, "token_list": TOKENS}


def test_there_are_configs():
    assert len(CONFIGS) >= 4


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: f"{p.parts[-4]}/{p.name}")
def test_config_builds(path):
    config = full_config(path)
    model = build(config)
    if config["model"] != "dynsize":
        return
    fix_masks(model.schedule)
    for size in config["encoder_conf"]["sizes"]:
        small, states = subnet_states(model, config, size)
        assert len(small["encoder_conf"]["keep_layers"]) == size
        assert set(build(small).state_dict()) == set(states)
