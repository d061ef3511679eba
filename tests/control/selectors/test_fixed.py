import pytest
import torch

from espnet_dynsize.control.sampler import Sandwich
from espnet_dynsize.control.selection import Phase
from espnet_dynsize.control.selectors.fixed import First, Random, Uniform
from espnet_dynsize.core.family import family_of_counts
from espnet_dynsize.train.build import build_schedule


def test_first_keeps_the_lowest_layers():
    masks = First(family_of_counts([2, 3, 5], 5)).masks()
    assert masks.tolist() == [
        [True, True, False, False, False],
        [True, True, True, False, False],
        [True] * 5,
    ]


def test_uniform_by_hand():
    # i * 0.618…: 0, .618, .236, .854, .472, .090
    assert Uniform(family_of_counts([6], 6)).ranking() == [0, 5, 2, 4, 1, 3]


@pytest.mark.parametrize("size", [4, 6, 12, 16])
def test_uniform_is_spread_over_depth_and_over_the_layers_of_a_block(size):
    mask = Uniform(family_of_counts([size, 24], 24)).masks()[0]
    kept = mask.nonzero().flatten()
    gaps = kept.diff()
    assert gaps.max() <= 2 * 24 / size
    kinds = torch.bincount(kept % 4, minlength=4)
    assert kinds.max() - kinds.min() <= 2


def test_random_is_drawn_from_the_seed_and_kept_in_the_checkpoint():
    family = family_of_counts([3, 8], 8)
    rankings = []
    for seed in range(5):
        torch.manual_seed(seed)
        rankings.append(tuple(Random(family).ranking()))
    assert len(set(rankings)) == 5
    torch.manual_seed(0)
    first = Random(family)
    other = Random(family)
    other.load_state_dict(first.state_dict())
    assert other.ranking() == first.ranking() == list(rankings[0])


@pytest.mark.parametrize("name", ["first", "uniform", "random"])
def test_without_a_search_the_joint_phase_begins_at_once(name):
    conf = {"search_fraction": 0.0}
    schedule = build_schedule(family_of_counts([2, 5], 5), name, conf)
    schedule.selection.plan(10)
    schedule.begin_update(0)
    assert schedule.phase is Phase.JOINT
    assert [len(subnet.kept) for subnet in schedule.selection.subnets()] == [2, 5]


def test_the_worst_are_dropped_first_as_with_simple_top_k():
    """By hand: 5 units down to 2 are three parts of a search of six updates."""
    schedule = build_schedule(
        family_of_counts([2, 5], 5), "first", {"search_updates": 6}, "whole"
    )
    selection = schedule.selection
    selection.plan(10)
    sampler = Sandwich(selection, "whole", 0.3)
    kept = []
    for update in range(1, 7):
        schedule.begin_update(0)
        full, gated = sampler.draw(update, torch.Generator())
        assert full.subnet == selection.family.full
        # Nothing is learned through gates, so what is dropped is not computed.
        assert (gated.gates, gated.weight, gated.name) == (None, 0.3, "gated")
        assert gated.subnet.head == "2"
        kept.append(gated.subnet.kept)
    assert kept == 2 * [(0, 1, 2, 3)] + 2 * [(0, 1, 2)] + 2 * [(0, 1)]
    schedule.begin_update(0)
    assert schedule.phase is Phase.JOINT
