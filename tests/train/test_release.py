"""A released loss has the value and the gradients of the loss."""

import pytest
import torch

from espnet_dynsize.train.release import release


def leaf(value: float) -> torch.Tensor:
    return torch.tensor(value, requires_grad=True)


def test_hand_computed():
    weight, unused, frozen = leaf(3.0), leaf(1.0), torch.tensor(5.0)
    loss = release(2 * weight.square() * frozen, [weight, unused, frozen])
    assert loss == 90.0
    (4 * loss).backward()
    assert weight.grad == 4 * 2 * 2 * 3 * 5
    assert unused.grad is None


def test_the_graph_before_an_input_serves_others():
    """Two losses share x = a²; only their own parts are released or kept."""
    a, b, c = leaf(2.0), leaf(3.0), leaf(5.0)
    x = a.square()
    total = release(x * b, [x, b]) + x * c
    total.backward()
    assert (float(a.grad), float(b.grad), float(c.grad)) == (4 * (3 + 5), 4.0, 4.0)


def test_the_graph_is_gone():
    weight = leaf(3.0)
    activation = weight.exp()
    loss = release(activation.square(), [weight])
    saved = torch.autograd.graph.get_gradient_edge(activation).node
    with pytest.raises(RuntimeError, match="after they have already been freed"):
        _ = saved._saved_result
    assert loss == activation.square()
