"""Every training yaml that ships builds a model, and its family can be cut."""

import sys
from pathlib import Path

import pytest
import yaml
from conftest import TOKENS, build, fix_masks

import espnet_dynsize
from espnet_dynsize.deploy.experiment import family_sizes
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
    assert len(CONFIGS) >= 5


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


sys.path.insert(0, str(ROOT / "benchmarks"))
from an4_family import SUPERNETS, config_file  # noqa: E402


@pytest.mark.parametrize("method", SUPERNETS)
def test_every_method_is_some_options_away_from_the_recipe_s_config(method, tmp_path):
    """The benchmark's methods, through ESPnet's own reading of yaml and options."""
    espnet_dynsize.register()
    arguments = ["--config", str(config_file(method)), "--output_dir", str(tmp_path)]
    parsed = DynSizeASRTask.get_parser().parse_args([*arguments, *SUPERNETS[method]])
    model = build({**vars(parsed), "token_list": TOKENS})
    assert model.schedule.sizes in [(4, 12, 24), (45, 70, 100)]
    assert list(model.schedule.sizes) == family_sizes(vars(parsed))
    for option, value in _pairs(SUPERNETS[method]):
        key, _, wanted = value.partition("=")
        assert str(getattr(parsed, option)[key]) == str(yaml.safe_load(wanted))


def _pairs(arguments):
    return [
        (option.lstrip("-"), value)
        for option, value in zip(arguments[::2], arguments[1::2])
    ]
