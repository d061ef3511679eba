"""Who trains in an update, with which weight."""

import pytest
from conftest import schedule

from espnet_dynsize.control.sampler import Sandwich


def draws(sizes, rule, updates=6, search_updates=0, seed=0, weight=0.5, **drops):
    planned = schedule(
        sizes=sizes, sandwich=rule, search_updates=search_updates, plan=1000
    )
    sampler = Sandwich(planned.selection, rule, weight, **drops)
    drawn = []
    for _ in range(updates):
        planned.begin_update(seed)
        drawn.append(sampler.draw(planned.now, planned.draws()))
    return drawn


def names(drawn):
    return [[s.name for s in samples] for samples in drawn]


@pytest.mark.parametrize(
    "sizes, rule, expected",
    [
        ([8], "whole", [["8"]]),
        ([8], "pairs", [["8"]]),
        ([3, 8], "whole", [["8", "3"]]),
        ([3, 8], "alternate", [["8"], ["8", "3"]]),
        ([3, 8], "pairs", [["8"], ["8", "3"]]),
        ([3, 5, 8], "whole", [["8", "5", "3"]]),
        ([3, 5, 8], "alternate", [["8", "3"], ["8", "5"]]),
        ([3, 5, 8], "pairs", [["8", "3"], ["8", "5"], ["5", "3"]]),
    ],
)
def test_who_trains_in_the_joint_phase(sizes, rule, expected):
    drawn = draws(sizes, rule)
    assert names(drawn) == 6 // len(expected) * expected
    for samples in drawn:
        assert [s.weight for s in samples] == [1.0, 0.5, 0.5][: len(samples)]
        heads = ["full" if s.name == "8" else s.name for s in samples]
        assert [s.subnet.head for s in samples] == heads
        assert [len(s.subnet.kept) for s in samples] == [int(s.name) for s in samples]


@pytest.mark.parametrize("rule, every", [("whole", 1), ("alternate", 2), ("pairs", 3)])
def test_who_trains_while_searching(rule, every):
    drawn = draws([3, 5, 8], rule, search_updates=6)
    gated = [["8", "gated"] if u % every == 0 else ["8"] for u in range(6)]
    assert names(drawn) == gated
    full, sampled = drawn[0]
    assert full.weight == 1.0 and full.gates is None and full.drop is None
    assert sampled.weight == 0.5 and sampled.subnet.head == "3"
    # L = 8, smallest 3: five parts in six updates; k = 7 in the first.
    assert sum(sampled.subnet.units) == 7 and sampled.gates.sum() == 7


def test_k_falls():
    drawn = draws([3, 8], "whole", updates=4, search_updates=4)
    assert [sum(samples[1].subnet.units) for samples in drawn] == [7, 6, 5, 4]


def test_middle_size_is_drawn_by_seed_and_update():
    def middle(seed):
        drawn = draws([2, 3, 4, 5, 8], "whole", updates=40, seed=seed)
        return [samples[1].name for samples in drawn]

    assert middle(1) == middle(1) != middle(2)
    assert set(middle(1)) == {"3", "4", "5"}


def test_stochastic_depth_only_outside_the_smallest_size():
    (samples,) = draws([3, 5, 8], "whole", updates=1, layer_drop_joint=0.25)
    full, middle, smallest = samples
    assert [p == 0.25 for p in full.drop] == [
        not keep for keep in smallest.subnet.units
    ]
    assert smallest.drop is None and middle.drop is None
