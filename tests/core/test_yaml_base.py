import pytest
import yaml

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.yaml_base import load_config


def write(folder, **configs):
    for name, config in configs.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_sections_are_merged_and_null_leaves_a_key_out(tmp_path):
    write(
        tmp_path,
        base=dict(optim="adam", model_conf=dict(sizes=[1, 2], selector="first")),
        child=dict(
            base="base.yaml",
            decoder=None,
            model_conf=dict(sizes=None, budgets={"params": [0.5, 1]}),
            optim_conf=dict(lr=0.1, eps=None),
        ),
    )
    assert load_config(tmp_path / "child.yaml") == dict(
        optim="adam",
        decoder=None,
        model_conf=dict(selector="first", budgets={"params": [0.5, 1]}),
        optim_conf=dict(lr=0.1),
    )


def test_a_base_lies_beside_the_config_that_a_link_leads_to(tmp_path):
    (tmp_path / "recipe").mkdir()
    write(tmp_path / "recipe", base={"a": 1}, child={"base": "base.yaml", "b": 2})
    (tmp_path / "link.yaml").symlink_to("recipe/child.yaml")
    assert load_config(tmp_path / "link.yaml") == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    "configs, message",
    [
        ({"child": {"base": "nowhere.yaml"}}, "nowhere.yaml does not exist"),
        ({"child": {"base": "child.yaml"}}, "is the base of itself"),
        ({"child": {"base": 3}}, "base=3 must be the path of a yaml file"),
        ({"child": [1, 2]}, "must have keys and values"),
    ],
)
def test_bad_bases(tmp_path, configs, message):
    write(tmp_path, **configs)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "child.yaml")


def test_a_file_that_is_no_yaml(tmp_path):
    (tmp_path / "child.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match="is not a yaml file"):
        load_config(tmp_path / "child.yaml")


@pytest.mark.parametrize(
    "text, key",
    [
        ("1: x", r"child.yaml: the key 1"),
        ("null: x", r"child.yaml: the key None"),
        ("on: x", r"child.yaml: the key True"),
        ("frontend_conf: {1: x}", r"child.yaml: frontend_conf: the key 1"),
    ],
)
def test_a_key_that_is_no_text(tmp_path, text, key):
    (tmp_path / "child.yaml").write_text(text)
    with pytest.raises(ConfigError, match=f"{key} must be text"):
        load_config(tmp_path / "child.yaml")


def test_keys_below_options_may_be_numbers(tmp_path):
    (tmp_path / "child.yaml").write_text("frontend_conf: {layers: {1: 2}}")
    assert load_config(tmp_path / "child.yaml") == {"frontend_conf": {"layers": {1: 2}}}
