"""Matrices without their rows and columns of zeros."""

import copy

import pytest
import torch

from espnet_dynsize.encoder.reduced import remove_zeros


def with_zeros(kind: str, rows: int, columns: int) -> torch.nn.Module:
    """[8, 4] whose first rows and columns are zero."""
    torch.manual_seed(0)
    made = torch.nn.Linear(4, 8) if kind == "linear" else torch.nn.Conv1d(4, 8, 1)
    with torch.no_grad():
        made.weight[:rows] = 0
        made.weight[:, :columns] = 0
    return made


@pytest.mark.parametrize("kind", ["linear", "convolution"])
@pytest.mark.parametrize(
    "rows, columns, left",
    [(6, 0, (2, 4)), (0, 2, (8, 2)), (6, 3, (2, 1)), (5, 1, None), (8, 4, None)],
)
def test_it_computes_the_same_with_less(kind, rows, columns, left):
    whole = torch.nn.Sequential(with_zeros(kind, rows, columns))
    reduced = copy.deepcopy(whole)
    remove_zeros(reduced)
    assert reduced[0].weight.shape[:2] == (left or (8, 4))
    x = torch.randn((2, 3, 4) if kind == "linear" else (2, 4, 3))
    torch.testing.assert_close(reduced(x), whole(x))
    states = whole.state_dict()
    for name, value in reduced.state_dict().items():
        assert torch.equal(value, states.pop(name)), name
    assert not states


def test_without_a_bias():
    whole = torch.nn.Linear(4, 8, bias=False)
    with torch.no_grad():
        whole.weight[2:] = 0
    reduced = torch.nn.Sequential(copy.deepcopy(whole))
    remove_zeros(reduced)
    x = torch.randn(3, 4)
    torch.testing.assert_close(reduced(x), whole(x))
    assert reduced[0].weight.shape == (2, 4)


def test_matrices_of_other_classes_stay():
    """A supernet masks them, and what is zero there changes."""

    class Own(torch.nn.Linear):
        pass

    module = torch.nn.Sequential(Own(4, 8))
    torch.nn.init.zeros_(module[0].weight[:, :3])
    remove_zeros(module)
    assert type(module[0]) is Own


def test_half_precision_and_copies():
    reduced = torch.nn.Sequential(with_zeros("linear", 6, 2))
    remove_zeros(reduced)
    half = copy.deepcopy(reduced).to(torch.bfloat16)
    x = torch.randn(2, 4)
    assert half(x.to(torch.bfloat16)).dtype is torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert reduced(x).dtype is torch.bfloat16
