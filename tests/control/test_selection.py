"""Phases, masks and their state in the checkpoint."""

import pytest
import torch
from conftest import schedule

from espnet_dynsize.control.controller import Controller
from espnet_dynsize.control.schedule import Schedule
from espnet_dynsize.control.selection import Phase, Selection
from espnet_dynsize.control.selectors.simple_top_k import SimpleTopK
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.family import family_of_counts
from espnet_dynsize.train.build import build_schedule


def advance(planned, updates, seed=0):
    for _ in range(updates):
        planned.begin_update(seed)


def test_the_phases():
    planned = schedule()
    advance(planned, 4)
    assert planned.phase is Phase.SEARCH and planned.started
    assert planned.selection.fixed_masks.isnan().all()
    advance(planned, 1)
    assert planned.phase is Phase.JOINT
    kept = [len(subnet.kept) for subnet in planned.selection.subnets()]
    assert kept == [3, 5, 8]


def test_without_a_search_masks_are_fixed_at_the_first_update():
    planned = schedule(search_updates=0)
    advance(planned, 1)
    assert planned.phase is Phase.JOINT


def test_joint_masks_do_not_follow_the_scores():
    planned = schedule(search_updates=0)
    advance(planned, 1)
    before = planned.selection.masks().clone()
    planned.selection.selector.scores.data.neg_()
    assert torch.equal(planned.selection.masks(), before)


def test_heads():
    """While searching, smaller sizes use the head that the gated subnet trains."""
    planned = schedule()
    advance(planned, 1)
    assert [s.head for s in planned.selection.subnets()] == ["3", "3", "full"]
    advance(planned, 4)
    assert [s.head for s in planned.selection.subnets()] == ["3", "5", "full"]
    assert planned.selection.subnet(5).head == "5"


@pytest.mark.parametrize("size", [4, "5", None, True])
def test_a_size_that_is_not_there(size):
    planned = schedule(search_updates=0)
    advance(planned, 1)
    with pytest.raises(ConfigError, match=rf"size={size} must be one of \[3, 5, 8\]"):
        planned.selection.subnet(size)


def test_a_penalty_in_turn_counts_as_often_as_in_every_update():
    conf = dict(
        sizes=[3, 8],
        selector="iterative_zero_out",
        search_updates=4,
        sparsity_weight=1.0,
        iterations=2,
    )
    penalties = {}
    for rule in ("whole", "alternate", "pairs"):
        planned = schedule(sandwich=rule, **conf)
        penalties[rule] = []
        for _ in range(4):
            planned.begin_update(0)
            penalties[rule].append(planned.penalty().item())
    whole = penalties["whole"]
    assert all(p > 0 for p in whole)
    close = pytest.approx
    assert penalties["alternate"] == close([2 * whole[0], 0, 2 * whole[2], 0], rel=1e-3)
    assert penalties["pairs"] == close([3 * whole[0], 0, 0, 3 * whole[3]], rel=1e-3)


def test_the_penalty_ends_with_the_search():
    planned = schedule(selector="iterative_zero_out", search_updates=1)
    advance(planned, 2)
    assert planned.penalty() == 0


def test_draws_follow_seed_and_update():
    def numbers(seed):
        planned = schedule()
        drawn = []
        for _ in range(3):
            planned.begin_update(seed)
            drawn.append(torch.randint(1000, (1,), generator=planned.draws()).item())
        return drawn

    assert numbers(1) == numbers(1) != numbers(2)
    assert len(set(numbers(1))) == 3


class Probe(Controller):
    """Notes what it is told."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def begin_update(self, update, generator):
        self.calls.append(("begin", update))

    def after_step(self, update, optimizer, generator):
        self.calls.append(("after", update))

    def penalty(self, update, generator):
        return 0.5 * update

    def reset(self):
        self.calls.append(("reset",))


def test_every_controller_is_told():
    selection = Selection(SimpleTopK(family_of_counts([3, 8], 8)))
    planned = Schedule(selection=selection, probe=Probe())
    planned.selection.plan(10)
    for _ in range(2):
        planned.begin_update(0)
        planned.after_step(None)
    assert planned.penalty() == 1.0
    planned.reset()
    assert planned.probe.calls == [
        ("begin", 1),
        ("after", 1),
        ("begin", 2),
        ("after", 2),
        ("reset",),
    ]


def test_reset_forgets_everything():
    planned = schedule()
    planned.selection.selector.scores.data.fill_(7.0)
    advance(planned, 6)
    planned.joint_epochs += 1
    planned.reset()
    assert not planned.started and planned.phase is Phase.SEARCH
    assert planned.joint_epochs == 0 and not planned.selection.planned
    assert (planned.selection.selector.scores < 1.0).all()


def test_a_loaded_schedule_goes_on_like_the_old_one():
    first, second = schedule(), schedule(plan=999)
    advance(first, 3)
    second.load_state_dict(first.state_dict())
    for _ in range(6):
        advance(first, 1)
        advance(second, 1)
        assert first.selection.subnets() == second.selection.subnets()
        assert first.phase is second.phase and first.now == second.now


def test_counters_do_not_follow_the_model_to_half_precision():
    planned = schedule().to(torch.bfloat16)
    planned.selection.plan(200000)
    planned.update.fill_(70001)
    advance(planned, 300)
    planned.half().to(torch.bfloat16)
    assert planned.update == 70301
    assert planned.selection.selector.scores.dtype is torch.bfloat16


def test_fraction_of_the_run():
    planned = build_schedule(
        family_of_counts([3, 8], 8), "simple_top_k", {"search_fraction": 0.6}
    )
    planned.selection.plan(200)
    assert planned.selection.search_updates == 120


def average_over(planned, updates):
    """What ESPnet's averaging makes of the states after each of the next updates."""
    states = []
    for _ in range(updates):
        planned.begin_update(0)
        states.append({k: v.clone() for k, v in planned.state_dict().items()})
    return {k: sum(s[k] for s in states) / updates for k in states[0]}


def test_average_of_joint_checkpoints_keeps_the_masks_exactly():
    planned = schedule(search_updates=0)
    average = average_over(planned, 5)
    other = schedule()
    other.load_state_dict(average)
    assert other.phase is Phase.JOINT
    assert torch.equal(other.selection.masks(), planned.selection.masks())


def test_average_across_the_phase_boundary_is_refused():
    planned = schedule(search_updates=1)
    planned.load_state_dict(average_over(planned, 2))
    with pytest.raises(ConfigError, match="size=3 has no layers yet"):
        planned.selection.subnet(3)


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
        ([True, 5, 8], "whole numbers"),
        (8, "sizes=8 must be a list"),
        ("4 8", "sizes=4 8 must be a list"),
    ],
)
def test_bad_sizes(sizes, message):
    with pytest.raises(ConfigError, match=message):
        family_of_counts(sizes, 8)


@pytest.mark.parametrize(
    "conf, message",
    [
        (
            {"search_fraction": 1.0},
            "search_fraction=1.0 must be at least 0 and below 1",
        ),
        (
            {"search_updates": -1},
            "search_updates=-1 must be a whole number, at least 0",
        ),
        ({"search_updates": 2.5}, "search_updates=2.5 must be a whole number"),
        ({"score_lr": float("inf")}, "score_lr=inf must be above 0"),
        (
            {"k_stepp": 1},
            "k_stepp=1 is not an option .*; did you mean k_step",
        ),
        ({"search_fractoin": 0.5}, "did you mean search_fraction?"),
        (
            {"search_fraction": 0.5, "search_updates": 4},
            "search_fraction=0.5 must be left out with search_updates=4",
        ),
    ],
)
def test_bad_selector_conf(conf, message):
    with pytest.raises(ConfigError, match=message):
        build_schedule(family_of_counts([3, 8], 8), "simple_top_k", conf)


def test_unknown_selector():
    with pytest.raises(ConfigError, match="selector=topk must be one of"):
        build_schedule(family_of_counts([3, 8], 8), "topk", None)


def test_search_longer_than_the_run():
    with pytest.raises(
        ConfigError, match="search_updates=4 must be less than the run's 4"
    ):
        schedule(plan=4)


def test_fraction_of_a_run_of_unknown_length():
    planned = build_schedule(family_of_counts([3, 8], 8), "simple_top_k", None)
    with pytest.raises(ConfigError, match="give search_updates"):
        planned.selection.plan(None)


def test_updates_before_the_plan_are_a_mistake():
    planned = build_schedule(family_of_counts([3, 8], 8), "simple_top_k", None)
    with pytest.raises(RuntimeError, match="plan"):
        planned.begin_update(0)


def test_a_schedule_made_under_inference_mode_can_be_read():
    with torch.inference_mode():
        planned = schedule()
        assert planned.phase is Phase.SEARCH and planned.selection.planned
