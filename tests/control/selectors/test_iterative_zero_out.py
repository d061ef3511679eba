import math

import pytest
import torch

from espnet_dynsize.control.selectors.iterative_zero_out import IterativeZeroOut
from espnet_dynsize.core.cost import CostModel
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.family import Family, family_of_counts


def selector(**conf) -> IterativeZeroOut:
    """Eight layers, four to be removed in two iterations of two."""
    made = IterativeZeroOut(family_of_counts([4, 6, 8], 8), iterations=2, **conf)
    made.scores.data = torch.tensor([3.0, -1.0, 2.0, 0.0, 5.0, 4.0, 1.0, 6.0])
    return made


def test_gates_are_sigmoids_of_the_scores():
    gates = selector().gates(0, 10, None)
    assert gates.values[3] == 0.5 and not gates.hard
    torch.testing.assert_close(gates.values[1].item(), 1 / (1 + math.e))


def test_penalty_asks_for_the_iteration_s_share():
    made = selector()
    made.scores.data = torch.tensor([0.0] * 4 + [40.0] * 4)  # gates .5 and 1: sum 6
    # 5 |(8 - 6) / 8 - n_i / 8| with n = 2, 4
    assert made.penalty(0, 10, None).item() == pytest.approx(0.0)
    assert made.penalty(5, 10, None).item() == pytest.approx(5 * 2 / 8)
    assert [made.gates(u, 10, None).k for u in (0, 4, 5, 9)] == [6, 6, 4, 4]


def test_penalty_pushes_the_scores_down():
    made = selector()
    made.penalty(9, 10, None).backward()
    assert (made.scores.grad > 0).all()


def test_penalty_counts_costs():
    family = Family((50, 100), (5.0, 10.0), CostModel((1.0, 3.0, 4.0), 2.0))
    made = IterativeZeroOut(family, iterations=1)
    made.scores.data = torch.tensor([0.0, 40.0, 0.0])
    # Removed (.5 + 2) / 8, wanted (10 - 5) / 8.
    penalty = made.penalty(0, 10, None).item()
    assert penalty == pytest.approx(5 * abs(2.5 / 8 - 5 / 8))


def test_lowest_scores_are_zeroed_at_the_end_of_an_iteration():
    made = selector()
    for update in range(10):
        made.begin_update(update, 10)
        zeroed = (made.scores == -5.0).nonzero().flatten().tolist()
        assert zeroed == ([] if update < 5 else [1, 3])
    assert made.ranking()[:6] == [7, 4, 5, 0, 2, 6]


def test_zeroed_units_rank_below_those_zeroed_later_and_may_recover():
    made = IterativeZeroOut(family_of_counts([1, 4], 4), iterations=3)
    made.scores.data = torch.tensor([1.0, 2.0, 3.0, 4.0])
    made.begin_update(10, 30)  # one is out
    assert made.scores.tolist() == [-5.0, 2.0, 3.0, 4.0]
    made.scores.data = torch.tensor([-4.0, 2.0, 3.0, 4.0])
    made.begin_update(20, 30)  # two are
    assert made.scores.tolist() == [-5.0, -5.0, 3.0, 4.0]
    made.scores.data = torch.tensor([-4.0, -4.5, 3.0, 4.0])
    assert made.ranking() == [3, 2, 1, 0]
    made = IterativeZeroOut(family_of_counts([1, 4], 4), iterations=3)
    made.scores.data = torch.tensor([1.0, 2.0, 3.0, 4.0])
    made.begin_update(10, 30)
    made.scores.data = torch.tensor([9.0, 2.0, 3.0, 4.0])
    made.begin_update(20, 30)
    assert made.scores.tolist() == [9.0, -5.0, -5.0, 4.0]
    assert made.ranking()[:2] == [0, 3]


def test_iterations_of_a_published_schedule():
    # TED-LIUM, sizes 24 and 48: 45 and then 7 x 15 sub-epochs.
    made = IterativeZeroOut(
        family_of_counts([24, 48], 48), iterations=8, first_iteration=3
    )
    starts = [0, *range(45, 150, 15)]
    assert [made.iteration(u, 150) for u in starts] == list(range(8))
    assert [made.iteration(u - 1, 150) for u in starts[1:]] == list(range(7))
    assert made.iteration(149, 150) == 7
    assert [
        made.family.costs.count(made.ranking(), made.budget(i)) for i in range(8)
    ] == [
        45,
        42,
        39,
        36,
        33,
        30,
        27,
        24,
    ]


def test_zero_is_below_the_initial_score():
    message = "zero_score=10.0 must be below initial_score=10.0"
    with pytest.raises(ConfigError, match=message):
        IterativeZeroOut(family_of_counts([4, 8], 8), zero_score=10.0)
