"""Yaml that is not meant well, or not yaml at all."""

import pytest

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.yaml_base import parse_yaml, read_config, read_yaml

LEVELS = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)]


@pytest.mark.parametrize(
    "text, message",
    [
        ("a0: &a0 [x]\n" + "".join(LEVELS), "at most 300000 values"),
        ("a: &a [*a]", "an alias that contains itself"),
        ("[" * 5000, "nested too deeply"),
        ("sizes: [4, 8]\nsizes: [8]", "the key sizes twice"),
        ("x: !!python/object/apply:os.system [id]", "could not determine a constr"),
        ("d: 2020-99-99", "month must be in 1..12"),
        ("a: [1", "expected ',' or ']'"),
        ("\x00", "special characters are not allowed"),
        ("? [a]: b", "unhashable key"),
    ],
)
def test_bad_text(text, message):
    with pytest.raises(ConfigError) as error:
        parse_yaml(text, "config")
    assert message in str(error.value)
    assert str(error.value).startswith("config ") and "\n" not in str(error.value)


def test_good_text():
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: *a", "c") == {
        "a": {"x": 1},
        "b": {"x": 1, "y": 2},
        "c": {"x": 1},
    }
    assert parse_yaml("", "c") is None


def test_bad_files(tmp_path):
    path = tmp_path / "config.yaml"
    with pytest.raises(ConfigError, match="config.yaml does not exist"):
        read_yaml(path)
    path.write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(ConfigError, match="config.yaml is not a yaml file"):
        read_yaml(path)
    for text in ("", "[a]", "text"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="must have keys and values"):
            read_config(path)
    path.write_text("encoder_conf: [1]")
    with pytest.raises(ConfigError, match=r"encoder_conf=\[1\] must be a section of"):
        read_config(path)
    path.write_text("encoder_conf: null")
    assert read_config(path) == {"encoder_conf": None}
