import pytest
import torch

from espnet_dynsize.core.cost import CostModel
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.family import family_of_budgets, family_of_counts


def test_counts_are_met_exactly_whatever_the_ranking():
    family = family_of_counts([2, 3, 5], 5)
    masks = family.masks([4, 0, 2, 1, 3])
    assert masks.tolist() == [
        [True, False, False, False, True],
        [True, False, True, False, True],
        [True, True, True, True, True],
    ]


def test_budgets_are_named_by_their_per_cent():
    family = family_of_budgets("flops", [0.65, 0.8, 1], CostModel((1.0, 3.0), 4.0))
    assert family.sizes == (65, 80, 100)
    assert family.budgets == pytest.approx((5.2, 6.4, 8.0))


def test_the_closest_number_of_units_is_taken():
    # Spent after 1, 2, 3 units of the ranking: 2 + (3, 4, 9).
    costs = CostModel((3.0, 5.0, 1.0), 2.0)
    assert costs.count([0, 2, 1], 6.4) == 2
    assert costs.count([0, 2, 1], 5.4) == 1
    assert costs.count([0, 2, 1], 8.6) == 3
    assert costs.count([0, 2, 1], 0.0) == 1  # never none


def test_budgets_are_met_within_one_unit_for_any_ranking():
    generator = torch.Generator().manual_seed(0)
    costs = (10 * torch.rand(30, generator=generator) + 1).tolist()
    family = family_of_budgets(
        "flops", [0.4, 0.55, 0.7, 1.0], CostModel(tuple(costs), 40.0)
    )
    for _ in range(50):
        ranking = torch.randperm(30, generator=generator).tolist()
        for mask, budget in zip(family.masks(ranking), family.budgets):
            spent = 40.0 + sum(c for c, kept in zip(costs, mask) if kept)
            assert abs(spent - budget) <= max(costs) / 2 + 1e-6


@pytest.mark.parametrize(
    "fractions, message",
    [
        ([], "must be numbers above 0, up to 1"),
        ([0.5, 1.2], "must be numbers above 0, up to 1"),
        (["half", 1], "must be numbers above 0, up to 1"),
        ([0.6, 0.5, 1], "must be increasing"),
        ([0.5, 0.501, 1], "at least 0.01 apart"),
        ([0.5, 0.9], "end with 1"),
        ([0.2, 1], "must be at least 0.625, which is what the front-end"),
    ],
)
def test_bad_budgets(fractions, message):
    with pytest.raises(ConfigError, match=message):
        family_of_budgets("flops", fractions, CostModel((1.0, 3.0), 4.0))
