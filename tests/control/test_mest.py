"""Elastic mutation on a matrix whose groups can be counted by hand."""

import copy

import pytest
import torch

from espnet_dynsize.control.sparsity.base import find_patterns
from espnet_dynsize.control.sparsity.mest import Mest, MestSparsity, densities
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.encoder.stored import make_stored

NAME = "encoders.0.feed_forward.w_1"
TOTAL = 100  # updates: mutations at 10, 20, …; stages begin at 50 and 80


def mest(**options) -> Mest:
    """Of 20 groups, 10 in the end; 4 mutate, then 2."""
    given = dict(method="mest", target=0.5, pattern="2x1", interval=0.1)
    given |= dict(mutation=[0.2, 0.1], stages=[0.5, 0.8])
    return Mest(**(given | options))


def controller(**options) -> MestSparsity:
    torch.manual_seed(1)
    matrices = {NAME: torch.nn.Linear(5, 8, bias=False)}
    chosen = mest(**options)
    made = MestSparsity(chosen, matrices, find_patterns(chosen, matrices))
    made.plan(TOTAL)
    for name, places in made.begin_training(0).items():
        make_stored(matrices[name], made.patterns[name], places)
    made.matrix = [matrices[NAME]]  # in a list: not one of its modules
    return made


def advance(made, first: int, last: int, optimizer=None) -> None:
    matrix = made.matrix[0]
    optimizer = optimizer or torch.optim.SGD([matrix.weight], lr=0.0)
    for update in range(first, last + 1):
        made.begin_update(update, generator(update))
        optimizer.zero_grad()
        matrix(torch.ones(1, 5)).sum().backward()
        optimizer.step()
        made.after_step(update, optimizer, generator(update))


def generator(update: int) -> torch.Generator:
    return torch.Generator().manual_seed(update)


def used(made) -> list[int]:
    places = made.places.of(NAME)
    return sorted(places[~places.isnan()].int().tolist())


@pytest.mark.parametrize("variant, stages", [("em", 10), ("em_s", 14)])
def test_how_many_groups_there_are_and_are_stored(variant, stages):
    made = controller(variant=variant)
    first = used(made)
    assert len(first) == len(set(first)) == stages
    assert made.matrix[0].weight.shape == (stages, 2)
    counts = {}
    for update in range(1, TOTAL + 1):
        advance(made, update, update)
        counts[update] = len(used(made))
    soft = variant == "em_s"
    assert counts[1] == counts[49] == (14 if soft else 10)
    assert counts[50] == counts[79] == (12 if soft else 10)
    assert counts[80] == counts[100] == 10


def test_a_later_stage_may_have_more_groups():
    made = controller(mutation=[0.1, 0.2])
    assert made.matrix[0].weight.shape == (14, 2)
    counts = []
    for update in range(1, TOTAL + 1):
        advance(made, update, update)
        counts.append(len(used(made)))
    assert counts[0] == counts[48] == 12 and counts[49] == 14 and counts[-1] == 10


def test_places_change_at_mutations_only_and_never_after_the_last_stage():
    made = controller()
    changed, before = [], used(made)
    for update in range(1, TOTAL + 1):
        assert made.final == (update > 80)
        advance(made, update, update)
        if used(made) != before:
            changed.append(update)
        before = used(made)
    assert changed == [10, 20, 30, 40, 50, 60, 70, 80]
    assert made.last_decision == 80


@pytest.mark.parametrize("variant, stay", [("em", 6), ("em_s", 10)])
def test_the_least_important_groups_go_and_others_begin_at_zero(variant, stay):
    made = controller(variant=variant)
    advance(made, 1, 9)
    matrix = made.matrix[0]
    stored = matrix.weight.size(0)
    with torch.no_grad():
        # The one in the middle is the most important, whatever its signs.
        sizes = torch.arange(1.0, stored + 1).roll(stored // 2)
        matrix.weight.copy_(torch.stack([sizes, -sizes], dim=1))
    before = made.places.of(NAME).clone()
    kept = sizes > stored - stay
    advance(made, 10, 10)
    after = made.places.of(NAME)
    assert torch.equal(after[kept], before[kept])
    assert matrix.weight[kept].all() and not matrix.weight[~kept].any()
    assert len(used(made)) == stored


def test_gradients_count_as_much_as_they_are_told_to():
    """All weights are 1: the inputs, which are the gradients, make the difference."""
    made = controller(variant="em", gradient_weight=0.5)
    matrix, x = made.matrix[0], torch.tensor([[3.0, -5, 1, 4, 2]])
    optimizer = torch.optim.SGD([matrix.weight], lr=0.0)
    with torch.no_grad():
        matrix.weight.fill_(1.0)
    advance(made, 1, 9, optimizer)
    places = made.places.of(NAME).long()
    made.begin_update(10, generator(10))
    optimizer.zero_grad()
    matrix(x).sum().backward()
    optimizer.step()
    made.after_step(10, optimizer, generator(10))
    # Groups are counted row by row: a place modulo 5 is its input.
    worth = x[0].abs()[places % 5]
    stayed = matrix.weight.any(dim=1)
    assert stayed.sum() == 6 and worth[stayed].min() >= worth[~stayed].max()


def test_growth_by_gradient_takes_the_largest():
    made = controller(variant="em", growth="gradient")
    matrix = made.matrix[0]
    optimizer = torch.optim.SGD([matrix.weight], lr=0.0)
    with torch.no_grad():
        matrix.weight.fill_(1.0)
    for update in range(1, 11):
        made.begin_update(update, generator(update))
        assert (matrix.seen is not None) == (update == 10)
        optimizer.zero_grad()
        matrix(torch.tensor([[0.0, 0, 9, 0, 0]])).sum().backward()
        optimizer.step()
        made.after_step(update, optimizer, generator(update))
    # The third input's groups, of four pairs of outputs
    assert {2, 7, 12, 17} <= set(used(made)) and matrix.seen is None


def test_a_step_that_was_skipped_is_made_up_for():
    """A gradient scaler skips the optimizer's step, and so what follows it."""
    made = controller()
    advance(made, 1, 9)
    before = used(made)
    made.begin_update(10, generator(10))
    advance(made, 11, 11)
    assert used(made) != before
    late = controller()
    advance(late, 1, 79)
    late.begin_update(80, generator(80))
    assert not late.final
    advance(late, 81, 81)
    assert late.final and len(used(late)) == 10


def test_a_resumed_run_mutates_as_if_it_had_never_stopped():
    made = controller()
    advance(made, 1, 25)
    resumed = controller()
    resumed.reset()
    resumed.load_state_dict(copy.deepcopy(made.state_dict()))
    with torch.no_grad():
        resumed.matrix[0].weight.copy_(made.matrix[0].weight)
    for each in (made, resumed):
        advance(each, 26, 90)
    places = [each.places.of(NAME).nan_to_num(-1) for each in (made, resumed)]
    assert torch.equal(*places)
    assert torch.equal(made.matrix[0].weight, resumed.matrix[0].weight)
    assert made.final and resumed.final


def test_without_its_beginning_nothing_trains():
    made = controller()
    made._begun = False
    with pytest.raises(RuntimeError, match="begin_training"):
        made.begin_update(1, generator(1))


def test_erk_gives_narrow_matrices_more():
    shapes = {"narrow": (10, 10), "wide": (10, 90), "square": (50, 50)}
    options = mest(distribution="erk", target=0.8)
    given = densities(options, shapes)
    # (10 + 10) / 100, (10 + 90) / 900 and (50 + 50) / 2500, times the same number
    scale = 0.2 * 3500 / (20 + 100 + 100)
    assert given["narrow"] == pytest.approx(0.2 * scale)
    assert given["wide"] == pytest.approx(scale / 9)
    assert given["square"] == pytest.approx(0.04 * scale)
    total = sum(given[n] * s[0] * s[1] for n, s in shapes.items())
    assert total == pytest.approx(0.2 * 3500)
    # Where a narrow one would have more than all, the others share the rest.
    crowded = densities(
        mest(distribution="erk", target=0.3, mutation=[0.1, 0.1]), shapes
    )
    assert crowded["narrow"] == 1.0
    total = sum(crowded[n] * s[0] * s[1] for n, s in shapes.items())
    assert total == pytest.approx(0.7 * 3500)
    assert densities(mest(), shapes) == dict.fromkeys(shapes, 0.5)


def test_places_of_a_checkpoint_are_checked():
    places = controller().places
    name = NAME.replace(".", "/")
    good = places.of(NAME)
    assert places.misfit(name, good) is None
    assert places.misfit(name, torch.full_like(good, torch.nan)) is None
    for slot, wrong in ((0, -1.0), (0, 20.0), (0, 0.5), (0, float(good[1]))):
        bad = good.clone()
        bad[slot] = wrong
        assert "no places" in places.misfit(name, bad)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(stages=[0.8, 0.5]), "stages=.0.8, 0.5. must be increasing parts"),
        (dict(stages=[0.05, 0.5]), "from interval .0.1. on"),
        (dict(mutation=[0.1]), "mutation=.0.1. must be one share for each of the 2"),
        (dict(mutation=[0.6, 0.1]), "at most 0.5: what there is to mutate"),
        (
            dict(mutation=[0.5, 0.1], variant="em"),
            "mutation=.0.5, .* must be less: no",
        ),
        (dict(target=0.999), "target=0.999 must be from 0.01 to 0.99"),
        (dict(mutation=[0.2, 0]), "must be above 0"),
        (dict(pattern="2:4"), "pattern=2:4 must be another than N:M for mest"),
        (dict(target=0.99), "target=0.99 must be less: nothing would be left"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        controller(**options)
