"""Matrices that store some groups only, next to dense ones with zeros."""

import copy

import pytest
import torch

from espnet_dynsize.core.pattern import Pattern
from espnet_dynsize.encoder.stored import make_stored

NAN = torch.nan


def stored(module, pattern="2x1", places=(0.0, 3.0, NAN)):
    made = copy.deepcopy(module)
    where = torch.tensor(places, dtype=torch.float64)
    make_stored(made, Pattern.named(pattern), lambda: where)
    return made


def linear() -> torch.nn.Linear:
    """[3, 2] whose groups of two outputs are (1, 3), (2, 4), (5), (6)."""
    module = torch.nn.Linear(2, 3)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
        module.bias.copy_(torch.tensor([0.1, 0.2, 0.3]))
    return module


def test_what_is_stored_of_a_matrix():
    made = stored(linear())
    # The last group is filled up, the last place is not used.
    assert made.weight.tolist() == [[1, 3], [6, 0], [0, 0]]
    assert made.state_dict()["weight"].tolist() == [[1, 0], [3, 0], [0, 6]]
    assert made(torch.tensor([[10.0, 1.0]])).tolist() == [
        [pytest.approx(10.1), pytest.approx(30.2), pytest.approx(6.3)]
    ]


@pytest.mark.parametrize("kind", ["linear", "convolution"])
@pytest.mark.parametrize("pattern", ["1x1", "4x1", "3x2", "rows", "columns"])
def test_outputs_and_gradients_are_those_of_the_dense_matrix(kind, pattern):
    torch.manual_seed(0)
    if kind == "linear":
        dense, x = torch.nn.Linear(5, 7).double(), torch.randn(2, 3, 5).double()
    else:
        dense = torch.nn.Conv1d(5, 7, 1).double()
        x = torch.randn(2, 5, 3).double()
    named = Pattern.named(pattern)
    grid = named.grid(dense.weight.shape)
    places = torch.arange(0, grid[0] * grid[1], 2).tolist()
    made = stored(dense, pattern, places)
    mask = torch.zeros(grid).flatten()
    mask[places] = 1
    mask = named.spread(mask.view(grid), dense.weight.shape)
    with torch.no_grad():
        dense.weight.mul_(mask)
    x.requires_grad_()
    again = x.detach().clone().requires_grad_()
    out, expected = made(x), dense(again)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(x.grad, again.grad, rtol=0, atol=1e-12)
    torch.testing.assert_close(made.bias.grad, dense.bias.grad, rtol=0, atol=1e-12)
    of_groups = made.gathered(dense.weight.grad)
    torch.testing.assert_close(made.weight.grad, of_groups, rtol=0, atol=1e-12)
    assert made.weight.grad.any()


def test_no_dense_matrix_is_kept_between_forward_and_backward():
    made = stored(torch.nn.Linear(64, 64), "4x1", [0.0, 7.0])
    sizes = []

    def note(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        made(torch.randn(2, 64, requires_grad=True))
    assert sorted(sizes) == [8, 128]
    assert sum(p.numel() for p in made.parameters()) == 8 + 64


@pytest.mark.parametrize("outputs", [1, 3])
def test_outputs_can_be_changed_in_place(outputs):
    """As ESPnet's attention of RNN decoders does."""
    made = stored(torch.nn.Linear(4, outputs, bias=False), "1x1", [0.0, 2.0])
    out = made(torch.randn(2, 3, 4)).squeeze(2)
    out.masked_fill_(out < 0, 0.0)
    out.sum().backward()
    assert made.weight.grad is not None


def test_half_precision_under_autocast():
    dense = torch.nn.Linear(8, 8)
    made = stored(dense, "4x1", [float(i) for i in range(16)])
    outputs, gradients = [], []
    for module in (made, dense):
        x = torch.ones(2, 8, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            outputs.append(module(x))
        outputs[-1].float().square().sum().backward()
        gradients.append((x.grad, module.bias.grad))
    assert outputs[0].dtype is torch.bfloat16 and torch.equal(*outputs)
    for own, stock in zip(*gradients):
        assert own.dtype is torch.float32
        torch.testing.assert_close(own, stock, rtol=0.02, atol=0.02)
    own = made.weight.grad
    assert own.dtype is torch.float32
    torch.testing.assert_close(
        own, made.gathered(dense.weight.grad), rtol=0.02, atol=0.02
    )


def test_state_dicts_are_dense_ones():
    made, other = stored(linear()), stored(linear())
    with torch.no_grad():
        made.weight.mul_(2)
    other.load_state_dict(made.state_dict())
    assert torch.equal(made.weight, other.weight)
    with pytest.raises(RuntimeError, match="weights in groups that are not stored"):
        other.load_state_dict(linear().state_dict())


def test_a_replaced_group_begins_at_zero_and_so_does_its_momentum():
    made = stored(linear(), places=(0.0, 3.0, 1.0))
    optimizer = torch.optim.Adam(made.parameters(), lr=0.1)
    made(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = optimizer.state[made.weight]
    assert state["exp_avg"][2].all() and state["exp_avg_sq"][2].all()
    before = made.weight.detach().clone()
    made.replace(torch.tensor([True, False, False]), state)
    assert torch.equal(made.weight[0], before[0]) and not made.weight[1:].any()
    assert state["exp_avg"][0].all() and not state["exp_avg"][1:].any()
    assert not state["exp_avg_sq"][1:].any() and state["step"] == 1
    factored = {"row_var": torch.ones(3, 1), "col_var": torch.ones(1, 2)}
    made.replace(torch.tensor([True, False, True]), factored)
    assert factored["row_var"].flatten().tolist() == [1, 0, 1]
    assert factored["col_var"].all()
    # Another optimizer's statistics, not there before its first step
    made.replace(torch.tensor([True, True, False]), {})


def test_gradients_of_all_groups_are_seen_when_they_are_wanted():
    made = stored(linear())
    made(torch.tensor([[1.0, 2.0]])).sum().backward()
    assert made.seen is None
    made.seen = torch.zeros(4)
    for _ in range(2):
        made(torch.tensor([[1.0, 2.0]])).sum().backward()
    # ∂/∂w = x for each output: groups of two outputs, the last ones of one
    assert made.seen.tolist() == [2 * 2, 2 * 8, 2 * 1, 2 * 4]
