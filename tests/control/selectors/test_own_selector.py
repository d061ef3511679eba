"""A user's selector, named by its dotted path."""

import pytest
import torch

from espnet_dynsize.control.selectors import SELECTORS, opening
from espnet_dynsize.control.selectors.fixed import FixedSelector
from espnet_dynsize.core.checkpoint import misfit
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.family import family_of_counts
from espnet_dynsize.train.build import build_schedule


class Last(FixedSelector):
    def __init__(self, family, skip: int = 0):
        super().__init__(family)
        self.skip = skip

    def ranking(self):
        units = list(range(self.num_units))
        return units[::-1][self.skip :] + units[::-1][: self.skip]


def build(name, conf=None):
    return build_schedule(family_of_counts([2, 5], 5), name, conf)


def test_dotted_path_with_options():
    schedule = build(f"{__name__}.Last", {"skip": 1})
    assert schedule.selection.selector.masks()[0].tolist() == [
        False,
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    "name, message",
    [
        ("simpel_top_k", "must be one of"),
        ("nowhere.Selector", "selector=nowhere.Selector cannot be imported"),
        (f"{__name__}.Nothing", "cannot be imported"),
        ("torch.nn.Linear", "dotted path of a subclass of LayerSelector"),
        (7, "must be one of"),
    ],
)
def test_bad_names(name, message):
    with pytest.raises(ConfigError, match=message):
        build(name)


@pytest.mark.parametrize("name", SELECTORS)
def test_every_selector_refuses_what_it_does_not_know(name):
    with pytest.raises(ConfigError, match="selector_conf: colour=red is not an option"):
        build(name, {"colour": "red"})


def test_a_model_that_is_opened_imports_nothing():
    with opening():
        schedule = build("nowhere.Selector", {"search_updates": 3, "colour": "red"})
    trained = build(f"{__name__}.Last", {"search_updates": 0})
    trained.selection.plan(2)
    trained.begin_update(0)
    trained.selection.selector.register_buffer("memory", torch.ones(7))
    schedule.load_state_dict(trained.state_dict())
    assert schedule.selection.subnet(2).kept == (3, 4)
    assert misfit(schedule, trained.state_dict()) is None
