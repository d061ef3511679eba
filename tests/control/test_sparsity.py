import copy

import pytest
import torch

from espnet_dynsize.control.sparsity.base import find_patterns
from espnet_dynsize.control.sparsity.omni import Omni, OmniSparsity
from espnet_dynsize.core.errors import ConfigError

FIRST, SECOND = "encoders.0.feed_forward.w_1", "encoders.0.self_attn.linear_q"


def matrices() -> dict[str, torch.nn.Module]:
    """[4, 2] whose pairs of outputs have 1, 2, 3 and 4, and [2, 2]."""
    first, second = torch.nn.Linear(2, 4, bias=False), torch.nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        pairs = torch.tensor([[1.0, 4.0], [3.0, 2.0]])
        first.weight.copy_(pairs.repeat_interleave(2, 0))
        second.weight.copy_(torch.tensor([[1.0, -2.0], [0.5, 3.0]]))
    return {FIRST: first, SECOND: second}


def controller(total: int | None = 100, **options) -> OmniSparsity:
    conf = dict(levels=[0, 0.5, 0.75], pattern={"w_1": "2x1"}, **options)
    sparse, found = Omni(**conf), matrices()
    made = OmniSparsity(sparse, found, find_patterns(sparse, found))
    made.plan(total)
    return made


def advance(made: OmniSparsity, *updates: int) -> None:
    for update in updates:
        made.begin_update(update, torch.Generator().manual_seed(update))


def test_masks_are_what_magnitude_leaves_at_each_level():
    made = controller()
    assert made.matrices == {FIRST: 8}
    advance(made, 35)
    # Groups of two outputs: 1 and 4 over 3 and 2. Ranks: 3 and 0 over 1 and 2
    assert made.ranks.of(FIRST).tolist() == [[3, 0], [1, 2]]
    half = made.masks({FIRST: 0.5})[FIRST]
    assert half.tolist() == [[0, 1], [0, 1], [1, 0], [1, 0]]
    most = made.masks({FIRST: 0.75})[FIRST]
    assert most.tolist() == [[0, 1], [0, 1], [0, 0], [0, 0]]
    assert made.masks({FIRST: 0}) == {}


def test_the_ramp_is_cubic_and_ends():
    made = controller()
    assert not made.started(34) and made.started(35)
    assert [made.ramp(update) for update in (35, 50, 65, 90)] == [0, 0.875, 1, 1]
    # Without a length, it is there at once.
    at_once = controller(start=0.5, ramp_end=0.5)
    assert at_once.ramp(50) == 1.0


def test_groups_are_ranked_anew_until_they_are_frozen():
    made = controller(refresh_updates=10)
    weight = made.modules_of[FIRST].weight
    advance(made, 34)
    assert made.ranks.of(FIRST).isnan().all()
    advance(made, 35)
    weight.data.mul_(-1).add_(5)  # 4, 1 over 2, 3
    before = made.ranks.of(FIRST).clone()
    advance(made, *range(36, 45))
    assert torch.equal(made.ranks.of(FIRST), before)
    advance(made, 45)
    assert made.ranks.of(FIRST).tolist() == [[0, 3], [2, 1]]
    assert not made.final
    weight.data.mul_(-1).add_(5)
    advance(made, 80)
    assert made.final and made.ranks.of(FIRST).tolist() == [[3, 0], [1, 2]]
    weight.data.mul_(-1).add_(5)
    advance(made, 81, 85, 100)
    assert made.ranks.of(FIRST).tolist() == [[3, 0], [1, 2]]


def test_ranks_that_are_not_there_make_no_masks():
    made = controller()
    with pytest.raises(ConfigError, match="groups of .*w_1 have no ranks yet"):
        made.masks({FIRST: 0.5})


def test_ranks_of_large_matrices_survive_averaging():
    """The sum over ten epochs has more digits than single precision."""
    made = controller()
    assert made.ranks.of(FIRST).dtype == torch.float64
    ranks = torch.tensor(4096.0 * 1024 - 1).to(made.ranks.of(FIRST))
    assert sum([ranks] * 10) / 10 == ranks


def test_a_resumed_controller_goes_on_as_if_it_had_never_stopped():
    made = controller()
    advance(made, 35)
    resumed = controller()
    resumed.reset()
    assert not resumed.planned and not resumed.final
    resumed.load_state_dict(copy.deepcopy(made.state_dict()))
    advance(made, 85, 86)
    advance(resumed, 85, 86)
    for name, value in made.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_random_sparsities_are_scattered_around_a_global_one():
    sparse = Omni([0, 0.5, 0.9], "unstructured")
    found = {f"encoders.{i}.w": torch.nn.Linear(10, 10 + i) for i in range(8)}
    made = OmniSparsity(sparse, found, find_patterns(sparse, found))
    made.plan(10)
    totals = []
    for seed in range(50):
        drawn = made.drawn(10, 0, torch.Generator().manual_seed(seed))
        assert len(set(drawn.values())) > 4
        assert all(0 < share <= 0.9 for share in drawn.values())
        weights = made.matrices
        zero = sum(weights[name] * share for name, share in drawn.items())
        totals.append(zero / sum(weights.values()))
    # What is clipped at the sparsest level leaves a little more.
    assert 0.5 <= min(totals) < 0.55 and 0.85 < max(totals) <= 0.9
    sparsest = made.drawn(10, 1, torch.Generator())
    assert set(sparsest.values()) == {0.9}


def test_the_ramp_scales_what_is_drawn():
    made = controller()
    assert made.drawn(50, 1, torch.Generator()) == {FIRST: pytest.approx(0.875 * 0.75)}


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(levels=[0.5, 0.9]), "levels=.0.5, 0.9. must be increasing from 0"),
        (dict(levels=[0, 0.9, 0.5]), "must be increasing from 0"),
        (dict(levels=[0, 0.5, 0.501]), "0.99, 0.01 apart"),
        (dict(levels=[0]), "levels=.0. must be increasing from 0 .* or one above 0"),
        (dict(start=0.7), "start, ramp_end, freeze=0.7, 0.65, 0.8 must be increasing"),
        (dict(freeze=0.5), "must be increasing parts of the run"),
        (dict(pattern="8by1"), "pattern=8by1 must be unstructured, rows"),
        (dict(pattern={"w_1": "x"}), "pattern: w_1=x must be"),
        (dict(pattern={"conv": "2x1"}), "a key=conv must be of"),
        (dict(levels=[0, 0.95]), "0.95 must be less: nothing would be left of enc"),
        (dict(pattern="1:2", levels=[0, 0.75]), "0.75 must be 0 and 0.5"),
        (dict(pattern={}), "pattern={} must be of at least one kind of layer"),
        (dict(pattern="64x64"), "0.5 must be more, or groups smaller: nothing of enc"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        sparse = Omni(**{"levels": [0, 0.5], "pattern": "2x1", **options})
        find_patterns(sparse, matrices())


@pytest.mark.parametrize(
    "total, message",
    [(None, "needs a run of known length"), (1, "freeze=0.8 must be such that")],
)
def test_the_run_must_be_long_enough(total, message):
    with pytest.raises(ConfigError, match=message):
        controller(total)


def test_a_checkpoint_s_ranks_are_checked():
    made = controller()
    advance(made, 35)
    ranks, name = made.ranks.of(FIRST), FIRST.replace(".", "/")
    assert made.ranks.misfit(name, ranks) is None
    assert made.ranks.misfit(name, torch.full_like(ranks, torch.nan)) is None
    partly = ranks.clone()
    partly[0, 0] = torch.nan
    for wrong in (ranks + 1, ranks * 0, ranks + 0.5, partly):
        assert "no ranking" in made.ranks.misfit(name, wrong)
    assert "in order" in made.misfit("updates", torch.tensor([3.0, 2.0, 5.0]))
