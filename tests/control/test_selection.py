import pytest
import torch

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.control.selectors import build_schedule as build_from_family
from espnet_dynsize.core.family import family_of_counts
from espnet_dynsize.control.selection import Phase


def build_schedule(selector, conf, num_layers, sizes, layer_drop_joint):
    family = family_of_counts(sizes, num_layers)
    return build_from_family(selector, conf, family, layer_drop_joint)


def schedule(**conf):
    conf = {"search_updates": 4, **conf}
    return build_schedule("simple_top_k", conf, 8, [3, 5, 8], layer_drop_joint=0.25)


def advance(planned, updates, seed=0):
    drawn = []
    for _ in range(updates):
        planned.begin_update(seed)
        subnets, _ = planned.sandwich()
        drawn.append([s.size for s in subnets])
    return drawn


def test_phases_and_k():
    planned = schedule()
    planned.plan(10)
    drawn = advance(planned, 4)
    assert planned.phase is Phase.SEARCH
    # L = 8, smallest 3: five parts in four updates, so k = 7, 6, 5, 4.
    assert drawn == [[8, 7], [8, 6], [8, 5], [8, 4]]
    assert advance(planned, 2) == [[8, 5, 3], [8, 5, 3]]
    assert planned.phase is Phase.JOINT


def test_joint_masks_do_not_follow_the_scores():
    planned = schedule(search_updates=0)
    planned.plan(10)
    planned.begin_update(0)
    before = planned.masks().clone()
    planned.selector.scores.data.neg_()
    assert torch.equal(planned.masks(), before)


def test_stochastic_depth_only_outside_the_smallest_subnet():
    planned = schedule(search_updates=0)
    planned.plan(10)
    planned.begin_update(0)
    (full, middle, smallest), _ = planned.sandwich()
    assert [p == 0.25 for p in full.drop] == [not kept for kept in smallest.mask]
    assert smallest.drop is None and middle.drop is None


def test_stochastic_depth_while_searching_only_outside_the_gated_subnet():
    family = family_of_counts([3, 8], 8)
    planned = build_from_family(
        "simple_top_k", {"search_updates": 5}, family, layer_drop_search=0.25
    )
    planned.plan(10)
    for k in (7, 6):
        planned.begin_update(0)
        (full, gated), _ = planned.sandwich()
        assert gated.size == k and sum(p == 0.25 for p in full.drop) == 8 - k
        assert not any(kept and p for kept, p in zip(gated.mask, full.drop))


def test_middle_size_is_drawn_by_seed_and_update():
    def draws(seed):
        planned = build_schedule(
            "simple_top_k", {"search_updates": 0}, 8, [2, 3, 4, 5, 8], 0.0
        )
        planned.plan(100)
        return [sizes[1] for sizes in advance(planned, 40, seed)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)
    assert set(draws(1)) == {3, 4, 5}


@pytest.mark.parametrize(
    "sizes, rule, expected",
    [
        ([8], "pairs", [[8]]),
        ([3, 8], "alternate", [[8], [8, 3]]),
        ([3, 8], "pairs", [[8], [8, 3]]),
        ([3, 5, 8], "alternate", [[8, 3], [8, 5]]),
        ([3, 5, 8], "pairs", [[8, 3], [8, 5], [5, 3]]),
    ],
)
def test_alternating_takes_a_part_of_the_sandwich(sizes, rule, expected):
    conf = {"search_updates": 0}
    planned = build_schedule("simple_top_k", conf, 8, sizes, layer_drop_joint=0.0)
    planned.plan(10)
    drawn = []
    for _ in range(6):
        planned.begin_update(0)
        subnets, _ = planned.sandwich(rule)
        drawn.append([s.size for s in subnets])
    assert drawn == 6 // len(expected) * expected


def test_a_penalty_in_turn_counts_as_often_as_in_every_update():
    conf = {"search_updates": 4, "sparsity_weight": 1.0, "iterations": 2}
    planned = build_schedule("iterative_zero_out", conf, 8, [3, 8], 0.0)
    planned.plan(10)
    planned.begin_update(0)
    assert planned.sandwich()[1] > 0
    for times, rule in ((2, "alternate"), (3, "pairs")):
        assert planned.sandwich(rule)[1] == times * planned.sandwich()[1]
    planned.begin_update(0)
    subnets, penalty = planned.sandwich("alternate")
    assert [s.size for s in subnets] == [8] and penalty == 0


def test_alternating_keeps_stochastic_depth_while_searching():
    conf, family = {"search_updates": 6, "k_step": 5}, family_of_counts([3, 8], 8)
    planned = build_from_family("simple_top_k", conf, family, layer_drop_search=0.25)
    planned.plan(10)
    for _ in range(2):
        planned.begin_update(0)
        full, *gated = planned.sandwich("alternate")[0]
        assert sorted(full.drop) == [0.0] * 3 + [0.25] * 5
    assert not gated


def test_a_loaded_schedule_goes_on_like_the_old_one():
    whole = schedule()
    whole.plan(10)
    expected = advance(whole, 9)
    first, second = schedule(), schedule()
    first.plan(10)
    begin = advance(first, 3)
    second.plan(999)  # the checkpoint's plan wins
    second.load_state_dict(first.state_dict())
    assert begin + advance(second, 6) == expected


def test_counters_do_not_follow_the_model_to_half_precision():
    planned = schedule().to(torch.bfloat16)
    planned.plan(2000)
    advance(planned, 300)
    assert planned.update == 300 and planned.selector.scores.dtype is torch.bfloat16


def test_fraction_of_the_run():
    planned = build_schedule("simple_top_k", {"search_fraction": 0.6}, 8, [3, 8], 0.0)
    planned.plan(200)
    assert planned.search_updates == 120


def average_over(planned, updates):
    """What ESPnet's averaging makes of the states after each of the next updates."""
    states = []
    for _ in range(updates):
        planned.begin_update(0)
        states.append({k: v.clone() for k, v in planned.state_dict().items()})
    return {k: sum(s[k] for s in states) / updates for k in states[0]}


def test_average_of_joint_checkpoints_keeps_the_masks_exactly():
    planned = schedule(search_updates=0)
    planned.plan(10)
    average = average_over(planned, 5)
    other = schedule()
    other.load_state_dict(average)
    assert other.phase is Phase.JOINT
    assert torch.equal(other.masks(), planned.masks())


def test_average_across_the_phase_boundary_is_refused():
    planned = schedule(search_updates=1)
    planned.plan(10)
    planned.load_state_dict(average_over(planned, 2))
    with pytest.raises(ConfigError, match="size=3 has no layers yet"):
        planned.subnet(3)


@pytest.mark.parametrize(
    "sizes, message",
    [
        ([5, 3, 8], "must be increasing"),
        ([3, 3, 8], "must be increasing"),
        ([0, 8], "each at least 1"),
        ([3, 9], "must end with the full size, 8"),
        ([3, 5], "must end with the full size, 8"),
        ([], "each at least 1"),
        ([2.5, 8], "whole numbers"),
    ],
)
def test_bad_sizes(sizes, message):
    with pytest.raises(ConfigError, match=message):
        build_schedule("simple_top_k", {}, 8, sizes, 0.0)


@pytest.mark.parametrize(
    "conf, message",
    [
        (
            {"search_fraction": 1.0},
            "search_fraction=1.0 must be at least 0 and below 1",
        ),
        ({"search_updates": -1}, "search_updates=-1 must be at least 0"),
        ({"k_stepp": 1}, "k_stepp"),
    ],
)
def test_bad_selector_conf(conf, message):
    with pytest.raises(ConfigError, match=message):
        build_schedule("simple_top_k", conf, 8, [3, 8], 0.0)


def test_unknown_selector():
    with pytest.raises(ConfigError, match="selector=topk must be one of"):
        build_schedule("topk", {}, 8, [3, 8], 0.0)


def test_layer_drop_search_out_of_range():
    with pytest.raises(ConfigError, match="layer_drop_search=-0.1 must be"):
        family = family_of_counts([3, 8], 8)
        build_from_family("simple_top_k", {}, family, layer_drop_search=-0.1)


def test_layer_drop_out_of_range():
    with pytest.raises(ConfigError, match="layer_drop_joint=1.0 must be"):
        build_schedule("simple_top_k", {}, 8, [3, 8], 1.0)


def test_search_longer_than_the_run():
    with pytest.raises(
        ConfigError, match="search_updates=4 must be less than the run's 4"
    ):
        schedule().plan(4)


def test_fraction_of_a_run_of_unknown_length():
    planned = build_schedule("simple_top_k", {}, 8, [3, 8], 0.0)
    with pytest.raises(ConfigError, match="give search_updates"):
        planned.plan(None)
