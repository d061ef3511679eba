import pytest
from conftest import encoder_conf

from espnet_dynsize.encoder.conformer import DynSizeConformerEncoder
from espnet_dynsize.encoder.costs import FRAMES, unit_flops, unit_params
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.report.measure import count_parameters


def encoder(**changes) -> DynSizeConformerEncoder:
    return DynSizeConformerEncoder(20, **encoder_conf(**changes))


def test_parameters_by_hand():
    costs, fixed = unit_params(encoder(), 20)
    feed_forward = 8 * 12 + 12 + 12 * 8 + 8 + 16  # and the norm
    attention = 4 * (8 * 8 + 8) + 8 * 8 + 2 * 8 + 16
    convolution = (8 * 16 + 16) + (8 * 3 + 8) + 16 + (8 * 8 + 8) + 16
    assert costs[:4] == [feed_forward, attention, convolution, feed_forward]
    # Input layer with norm, final norms of two blocks, norm of the encoder.
    assert fixed == (20 * 8 + 8 + 16) + 2 * 16 + 16


def test_flops_by_hand():
    costs, fixed = unit_flops(encoder(), 20)
    assert costs[0] == FRAMES * 2 * 2 * 8 * 12
    pointwise = 2 * (8 * 16 + 8 * 8)
    depthwise = 2 * 8 * 3
    assert costs[2] == FRAMES * (pointwise + depthwise)
    assert fixed == FRAMES * 2 * 20 * 8


def test_components_share_what_their_layer_costs():
    whole, _ = unit_flops(encoder(), 20)
    parts, _ = unit_flops(
        encoder(
            granularity="component",
            budgets={"flops": [0.7, 1]},
            selector="ortho_softmax",
        ),
        20,
    )
    assert parts[:4] == pytest.approx([whole[0] / 4] * 4)
    assert parts[4:6] == pytest.approx([whole[1] / 2] * 2)
    assert sum(parts) == pytest.approx(sum(whole))


@pytest.mark.parametrize("kind", ["flops", "params"])
@pytest.mark.parametrize("selector", ["uniform", "simple_top_k", "ortho_softmax"])
def test_budgets_are_met_within_one_layer(kind, selector):
    supernet = encoder(num_blocks=4, budgets={kind: [0.4, 0.7, 1]}, selector=selector)
    assert supernet.schedule.sizes == (40, 70, 100)
    cost = unit_flops(supernet, 20) if kind == "flops" else unit_params(supernet, 20)
    costs, fixed = cost
    total = fixed + sum(costs)
    for part, mask in zip((0.4, 0.7, 1.0), supernet.schedule.selector.masks()):
        spent = fixed + sum(c for c, kept in zip(costs, mask) if kept)
        assert abs(spent - part * total) <= max(costs)


def test_extracted_model_has_the_parameters_that_were_budgeted():
    supernet = encoder(num_blocks=4, budgets={"params": [0.5, 1]})
    costs, fixed = unit_params(supernet, 20)
    kept = supernet.schedule.selector.masks()[0].nonzero().flatten().tolist()
    small = encoder(num_blocks=4, keep_layers=kept)
    assert count_parameters(small) == fixed + sum(costs[i] for i in kept)


@pytest.mark.parametrize(
    "budgets, message",
    [
        ({"time": [0.5, 1]}, "budgets={'time': .* must have one key of"),
        ({"flops": [1], "params": [1]}, "must have one key of"),
        ({}, "must have one key of"),
        ({"flops": [0.001, 1]}, "budgets: flops=.* must be at least 0"),
    ],
)
def test_bad_budgets(budgets, message):
    with pytest.raises(ConfigError, match=message):
        encoder(budgets=budgets)


def test_budgets_and_sizes_exclude_each_other():
    with pytest.raises(ConfigError, match="exclude each other"):
        encoder(budgets={"flops": [0.9, 1]}, sizes=[3, 8])
