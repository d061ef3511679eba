import pytest
import torch

from espnet_dynsize.control.selectors.simple_top_k import SimpleTopK, annealed_k
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.family import family_of_counts


def test_k_starts_one_step_below_full_and_ends_at_the_smallest():
    # L = 48, smallest 16, r = 8: four parts of 100 updates with k = 40, 32, 24, 16.
    ks = [annealed_k(u, 400, 48, 16, 8) for u in (0, 99, 100, 199, 200, 300, 399, 1000)]
    assert ks == [40, 40, 32, 32, 24, 16, 16, 16]


def test_k_step_that_does_not_divide_ends_at_the_smallest():
    # ceil((8 - 3) / 2) = 3 parts: 6, 4, then 3 and not 2.
    assert [annealed_k(u, 30, 8, 3, 2) for u in (0, 10, 20, 29)] == [6, 4, 3, 3]


def test_one_size_family_keeps_everything():
    assert annealed_k(0, 10, 8, 8, 1) == 8


def test_schedule_does_not_depend_on_the_number_of_layers():
    middle = [annealed_k(500, 1000, n, n // 2, 1) / n for n in (16, 48, 96)]
    assert middle == [pytest.approx(0.75, abs=0.07)] * 3


def test_masks_are_the_top_scores_and_nested():
    selector = SimpleTopK(family_of_counts([1, 3, 4], 4))
    selector.scores.data = torch.tensor([0.2, 0.9, 0.1, 0.5])
    assert selector.masks().tolist() == [
        [False, True, False, False],
        [True, True, False, True],
        [True, True, True, True],
    ]


def test_ties_are_broken_by_the_seed():
    masks = set()
    for seed in range(8):
        torch.manual_seed(seed)
        masks.add(tuple(SimpleTopK(family_of_counts([3, 6], 6)).masks()[0].tolist()))
    assert len(masks) > 1


def test_gates_of_the_first_update():
    selector = SimpleTopK(family_of_counts([2, 4], 4), k_step=1)
    selector.scores.data = torch.tensor([0.5, 0.1, 0.5, 0.5])
    gates = selector.gates(0, 100, torch.Generator())
    assert gates.k == 3 and gates.hard
    assert gates.values.tolist() == [1, 0, 1, 1]
    assert selector.penalty(0, 100, torch.Generator()) == 0


def test_a_step_is_at_most_all_layers():
    with pytest.raises(ConfigError, match="k_step=5 must be between 1 and 4"):
        SimpleTopK(family_of_counts([2, 4], 4), k_step=5)
