import pytest
from conftest import build, dynsize_encoder, encoder_conf, model_config

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.subnet import Subnet
from espnet_dynsize.encoder.costs import FRAMES, flops, parameters
from espnet_dynsize.report.measure import count_parameters


def encoder(**changes):
    return dynsize_encoder(**encoder_conf(**changes))


def budgeted(budgets, **changes):
    return build(model_config(sizes=None, budgets=budgets, **changes))


def test_parameters_by_hand():
    model = parameters(encoder())
    costs, fixed = list(model.units), model.fixed
    feed_forward = 8 * 12 + 12 + 12 * 8 + 8 + 16  # and the norm
    attention = 4 * (8 * 8 + 8) + 8 * 8 + 2 * 8 + 16
    convolution = (8 * 16 + 16) + (8 * 3 + 8) + 16 + (8 * 8 + 8) + 16
    assert costs[:4] == [feed_forward, attention, convolution, feed_forward]
    # Input layer with norm, final norms of two blocks, norm of the encoder.
    assert fixed == (20 * 8 + 8 + 16) + 2 * 16 + 16


def test_flops_by_hand():
    model = flops(encoder())
    costs, fixed = list(model.units), model.fixed
    assert costs[0] == FRAMES * 2 * 2 * 8 * 12
    pointwise = 2 * (8 * 16 + 8 * 8)
    depthwise = 2 * 8 * 3
    assert costs[2] == FRAMES * (pointwise + depthwise)
    assert fixed == FRAMES * 2 * 20 * 8


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pos_enc_layer_type": "abs_pos", "selfattention_layer_type": "selfattn"},
    ],
    ids=str,
)
def test_fused_attention_is_counted(options):
    """The same attention costs the same, however it is computed."""
    plain, fused = (
        flops(encoder(use_flash_attn=False, **sdpa, **options)).units[1]
        for sdpa in ({}, {"use_sdpa": True})
    )
    projections = FRAMES * 2 * 4 * 8 * 8
    assert fused > projections + FRAMES**2 * 2 * 2 * 8 * 0.99
    if "pos_enc_layer_type" in options:  # relative positions are computed otherwise
        assert fused == plain


def test_components_share_what_their_layer_costs():
    whole = flops(encoder()).units
    parts = flops(encoder(granularity="component")).units
    assert parts[:4] == pytest.approx([whole[0] / 4] * 4)
    assert parts[4:6] == pytest.approx([whole[1] / 2] * 2)
    assert sum(parts) == pytest.approx(sum(whole))


@pytest.mark.parametrize("kind", ["flops", "params"])
@pytest.mark.parametrize("selector", ["uniform", "simple_top_k", "ortho_softmax"])
def test_budgets_are_met_within_one_layer(kind, selector):
    model = budgeted({kind: [0.6, 0.8, 1]}, num_blocks=4, selector=selector)
    selection = model.schedule.selection
    assert selection.sizes == (60, 80, 100)
    cost = {"flops": flops, "params": parameters}[kind](model.encoder)
    for part, mask in zip((0.6, 0.8, 1.0), selection.selector.masks().tolist()):
        spent = cost.cost(Subnet(tuple(mask)))
        assert abs(spent - part * cost.total) <= max(cost.units)


def test_extracted_model_has_the_parameters_that_were_budgeted():
    model = budgeted({"params": [0.5, 1]}, num_blocks=4)
    mask = model.schedule.selection.selector.masks()[0].tolist()
    subnet = Subnet(tuple(mask))
    small = dynsize_encoder(
        5, **encoder_conf(num_blocks=4, keep_layers=list(subnet.kept))
    )
    assert count_parameters(small) == parameters(model.encoder).cost(subnet)


@pytest.mark.parametrize(
    "budgets, message",
    [
        (
            {"time": [0.5, 1]},
            "must be a section of keys .one of flops, params",
        ),
        ({"flops": [1], "params": [1]}, "must have one key of"),
        ({}, "must have one key of"),
        (0.7, "budgets=0.7 must be a section of keys"),
        (
            {"flops": 0.7},
            "budgets={'flops': 0.7} must be a section of .*each a list",
        ),
        ({"flops": None}, "budgets={'flops': None} must be a section"),
        ({"flops": [0.001, 1]}, "budgets: flops=.* must be at least 0"),
    ],
)
def test_bad_budgets(budgets, message):
    with pytest.raises(ConfigError, match=message):
        budgeted(budgets)


def test_budgets_and_sizes_exclude_each_other():
    with pytest.raises(ConfigError, match="needs one of them"):
        build(model_config(budgets={"flops": [0.9, 1]}))


def test_component_sizes_are_budgets():
    with pytest.raises(ConfigError, match=r"sizes=\[3, 8\] counts layers"):
        build(model_config(sizes=[3, 8], granularity="component"))


def test_flops_of_an_encoder_that_reads_ctc_posteriors():
    """The encoder's own FLOPs; the CTC output that it asks for is not one of them."""
    conf = dict(interctc_layer_idx=[1], interctc_use_conditioning=True)
    config = model_config(budgets={"flops": [0.9, 1]}, sizes=None, **conf)
    config["model_conf"]["interctc_weight"] = 0.3
    reading = build(config).schedule.selection.family
    plain = build(model_config(budgets={"flops": [0.9, 1]}, sizes=None))
    assert reading.costs.units == plain.schedule.selection.family.costs.units
