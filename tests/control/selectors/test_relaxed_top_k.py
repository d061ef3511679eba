import math

import pytest
import torch

from espnet_dynsize.control.selectors.relaxed_top_k import (
    relaxed_top_k,
    straight_through_top_k,
)


def test_k1_is_softmax():
    scores = torch.tensor([0.0, math.log(3.0)])
    torch.testing.assert_close(relaxed_top_k(scores, 1), torch.tensor([0.25, 0.75]))


def test_second_pick_is_weighed_by_what_is_left():
    # p1 = (1/4, 3/4); the scores times (1 - p1) are 1 * 3/4 and 3 * 1/4: equal.
    scores = torch.tensor([0.0, math.log(3.0)])
    torch.testing.assert_close(relaxed_top_k(scores, 2), torch.tensor([0.75, 1.25]))


@pytest.mark.parametrize("k", [0, 1, 5, 12])
def test_sums_to_k(k):
    torch.testing.assert_close(
        relaxed_top_k(torch.randn(12), k).sum(), torch.tensor(float(k))
    )


def test_equal_scores_share_equally():
    torch.testing.assert_close(
        relaxed_top_k(torch.full((8,), 0.5), 6), torch.full((8,), 0.75)
    )


@pytest.mark.parametrize("straight_through", [False, True])
def test_gradient_reaches_every_score(straight_through):
    scores = torch.randn(10, requires_grad=True)
    gates = relaxed_top_k(scores, 4)
    if straight_through:
        gates = straight_through_top_k(gates, 4)
    (gates * torch.arange(10.0)).sum().backward()
    assert (scores.grad != 0).all()


def test_straight_through_is_hard_with_the_soft_gradient():
    scores = torch.tensor([0.1, 0.9, 0.5, 0.2], requires_grad=True)
    weights = torch.tensor([1.0, -2.0, 3.0, 0.5])
    hard = straight_through_top_k(relaxed_top_k(scores, 2), 2)
    assert hard.round(decimals=5).tolist() == [0, 1, 1, 0]
    (hard * weights).sum().backward()
    soft_scores = scores.detach().clone().requires_grad_()
    (relaxed_top_k(soft_scores, 2) * weights).sum().backward()
    torch.testing.assert_close(scores.grad, soft_scores.grad)


def test_a_score_that_takes_everything_does_not_make_nan():
    gates = relaxed_top_k(torch.tensor([50.0, 0.0, 0.0]), 2)
    torch.testing.assert_close(gates, torch.tensor([1.0, 0.5, 0.5]))
