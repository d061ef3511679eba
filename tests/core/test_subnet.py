import pytest
import yaml

from espnet_dynsize.core.cost import CostModel
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.subnet import Subnet


def test_the_same_choice_is_the_same_subnet():
    one, other = Subnet((True, False, True), "3"), Subnet.of([2, 0], 3, "3")
    assert one == other and len({one, other}) == 1
    assert one != Subnet((True, False, True))


def test_units_of_a_layer_are_counted_from_its_first():
    subnet = Subnet.of([0, 3, 5], 6)
    assert subnet.kept == (0, 3, 5)
    assert subnet.within(range(2, 6)) == (1, 3)


def test_yaml_in_and_out():
    subnet = Subnet.of([1, 4], 6, "16")
    assert Subnet.from_yaml(yaml.safe_load(yaml.safe_dump(subnet.to_yaml()))) == subnet
    text = "{num_units: 6, kept: [4, 1], head: 16}"  # a size, as people write it
    assert Subnet.from_yaml(yaml.safe_load(text)) == subnet


@pytest.mark.parametrize(
    "content, message",
    [
        (None, r"s.yaml must have the keys \['head', 'kept', 'num_units'\]"),
        ({"num_units": 6, "kept": [1]}, "must have the keys"),
        ({"num_units": 6, "kept": [1], "head": "full", "x": 1}, "must have the keys"),
        ({"num_units": 0, "kept": [], "head": "full"}, "num_units=0 must be a whole"),
        ({"num_units": True, "kept": [], "head": "full"}, "num_units=True must be"),
        ({"num_units": 6, "kept": [6], "head": "full"}, "positions from 0 to 5"),
        ({"num_units": 6, "kept": [-1], "head": "full"}, "positions from 0 to 5"),
        ({"num_units": 6, "kept": 3, "head": "full"}, "kept=3 must be a list"),
        ({"num_units": 6, "kept": [1.0], "head": "full"}, "must be a list"),
        ({"num_units": 6, "kept": [1, 1], "head": "full"}, "names a position twice"),
    ],
)
def test_bad_yaml(content, message):
    with pytest.raises(ConfigError, match=message):
        Subnet.from_yaml(content, "s.yaml")


def test_cost_by_hand():
    costs = CostModel((1.0, 2.0, 4.0), 10.0)
    assert costs.cost(Subnet.of([0, 2], 3)) == 15.0
    assert costs.total == 17.0
