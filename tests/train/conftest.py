import pytest
from training import train, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    exp = tmp_path_factory.mktemp("exp") / "whole"
    return exp, train(data, exp, 5)
