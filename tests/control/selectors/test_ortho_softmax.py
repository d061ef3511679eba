import math

import pytest
import torch

from espnet_dynsize.control.selectors.ortho_softmax import (
    OrthoSoftmax,
    orthogonality_penalty,
)
from espnet_dynsize.core.cost import CostModel
from espnet_dynsize.core.family import Family, family_of_counts


def test_penalty_by_hand():
    rows = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    # p0·p1 = .5; p0·p0 - 1 = -.5; p1·p1 - 1 = 0.
    assert orthogonality_penalty(rows).item() == pytest.approx(math.sqrt(0.5))


def test_penalty_is_zero_for_different_one_hot_rows_and_has_a_slope():
    rows = torch.eye(3).requires_grad_()
    penalty = orthogonality_penalty(rows)
    penalty.backward()
    assert penalty.item() == pytest.approx(0.0, abs=1e-5)
    assert rows.grad.isfinite().all()


def selector(sizes=(1, 3), num_layers=3, **conf) -> OrthoSoftmax:
    return OrthoSoftmax(family_of_counts(list(sizes), num_layers), **conf)


def test_gates_are_the_sum_of_the_first_rows():
    made = selector(sizes=(2, 3))
    made.scores.data = torch.tensor(
        [[0.0, math.log(2.0), 0.0], [0.0, 0.0, math.log(6.0)], [0.0, 0.0, 0.0]]
    )
    gates = made.gates(0, 10, torch.Generator())
    assert gates.k == 2
    torch.testing.assert_close(
        gates.values, torch.tensor([1 / 4 + 1 / 8, 1 / 2 + 1 / 8, 1 / 4 + 3 / 4])
    )
    penalty = made.penalty(0, 10, torch.Generator())
    assert penalty.item() == 0.0  # its weight rises from 0


def test_temperature_falls_and_the_penalty_s_weight_rises():
    made = selector(sizes=(1, 3), final_temperature=0.25)
    made.scores.data = torch.tensor([[0.0, math.log(2.0), 0.0]] * 3)
    gates = made.gates(5, 10, torch.Generator())  # temperature .25 ** .5 = .5
    torch.testing.assert_close(gates.values, torch.tensor([1.0, 4.0, 1.0]) / 6)
    own = (1 + 16 + 1) / 36
    penalty = made.penalty(5, 10, torch.Generator())
    assert penalty.item() == pytest.approx(0.5 * (1 - own))


def test_rows_are_taken_up_to_the_expected_cost():
    made = OrthoSoftmax(Family((50, 100), (6.0, 12.0), CostModel((1.0, 2.0, 8.0), 1.0)))
    made.scores.data = 100.0 * torch.tensor(
        [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    )
    # Spent after one, two, three rows: 3, 4, 12.
    assert made.gates(0, 10, torch.Generator()).k == 2


def test_every_smaller_budget_is_drawn():
    made = selector(sizes=(1, 2, 3, 5), num_layers=5)
    drawn = {made.gates(0, 10, torch.Generator().manual_seed(i)).k for i in range(30)}
    assert drawn == {1, 2, 3}


def test_a_unit_is_ranked_once_even_if_two_rows_want_it():
    made = selector()
    made.scores.data = torch.tensor([[0.0, 3.0, 1.0], [0.0, 2.0, 1.0], [0.0, 5.0, 4.0]])
    assert made.ranking() == [1, 2, 0]
    assert made.masks()[0].tolist() == [False, True, False]
