"""Files that a config names are found from anywhere."""

import pytest

from espnet_dynsize.core.located import locate

CONFIG = {"token_list": "data/tokens.txt"}


@pytest.fixture
def recipe(tmp_path):
    """A recipe whose models lie on another disk."""
    (tmp_path / "disk" / "models" / "asr").mkdir(parents=True)
    (tmp_path / "recipe" / "data").mkdir(parents=True)
    (tmp_path / "recipe" / "data" / "tokens.txt").touch()
    (tmp_path / "recipe" / "exp").symlink_to(tmp_path / "disk" / "models")
    return tmp_path / "recipe"


def test_above_a_link(recipe):
    expected = {"token_list": str(recipe / "data" / "tokens.txt")}
    assert locate(CONFIG, recipe / "exp" / "asr") == expected


def test_where_a_model_lies_comes_first(recipe, tmp_path):
    """A link to another recipe's model: both have files of the same names."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data").mkdir()
    (tmp_path / "other" / "data" / "tokens.txt").touch()
    (tmp_path / "other" / "exp").mkdir()
    (tmp_path / "other" / "exp" / "asr").mkdir()
    (recipe / "linked").symlink_to(tmp_path / "other" / "exp" / "asr")
    expected = {"token_list": str(tmp_path / "other" / "data" / "tokens.txt")}
    assert locate(CONFIG, recipe / "linked") == expected
