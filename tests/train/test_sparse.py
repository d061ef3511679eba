"""Families of sparsities, alone and with sizes."""

import copy

import pytest
import torch
from conftest import batch, build, log_probs, model_config, randomise, stock_config

from espnet_dynsize.control.selection import Phase
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.subnet import Sampled, Subnet

LEVELS = [0, 0.5, 0.8]
TOTAL = 20  # updates: sparse from 7 on, full levels from 13 on, final from 16 on


def sparse_model(sizes=None, **options):
    family = dict(sparsity={"levels": LEVELS, "refresh_updates": 2, **options})
    search = {} if sizes is None else {"selector_conf": {"search_updates": 2}}
    config = model_config(
        {**family, **search}, sizes=sizes, dropout_rate=0.0, positional_dropout_rate=0.0
    )
    model = build(config).train()
    model.schedule.plan(TOTAL)
    return model


def advance(model, updates: int):
    for _ in range(updates):
        model.begin_update(0)
    return model


def names(model) -> list[str]:
    return [member.name for member in model.schedule.members()]


def test_the_members_of_a_family():
    assert names(sparse_model()) == ["sparsity0", "sparsity50", "sparsity80"]
    both = names(sparse_model([3, 8]))
    assert both == [
        *("3", "3_sparsity50", "3_sparsity80"),
        *("8", "8_sparsity50", "8_sparsity80"),
    ]


@pytest.mark.parametrize("encoder", ["e_branchformer", "transformer"])
def test_the_dense_network_is_the_stock_one(encoder):
    """Of encoders without batch norms; the others' norms are not the stock ones."""
    shape = dict(output_size=8, attention_heads=2, num_blocks=2, input_layer="linear")
    if encoder == "e_branchformer":
        shape |= dict(cgmlp_linear_units=12, use_ffn=True)
    stock_conf = stock_config() | dict(encoder=encoder, encoder_conf=shape)
    stock = build(stock_conf).train()
    family = dict(sparsity={"levels": LEVELS}, distill_weight=0.0)
    config = stock_conf | dict(
        encoder=f"dynsize_{encoder}",
        model="dynsize",
        model_conf={"ctc_weight": 1.0, **family},
    )
    model = build(config).train()
    missing = model.load_state_dict(stock.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert all(name.startswith("schedule.") for name in missing.missing_keys)
    model.schedule.plan(TOTAL)
    data, losses = batch(), []
    for trained in (stock, model):
        if trained is model:
            model.begin_update(0)
        torch.manual_seed(3)  # the same dropout
        losses.append(trained(**data)[0])
        losses[-1].sum().backward()
    assert torch.equal(*losses)
    for name, parameter in stock.named_parameters():
        assert torch.equal(parameter.grad, model.get_parameter(name).grad), name


def test_sparse_subnets_train_from_the_start_on_and_in_turn():
    model = advance(sparse_model(), 6)
    model.sampler.rule = "alternate"
    drawn = []
    for _ in range(8):
        model.begin_update(0)
        samples = model.sampler.draw(model.schedule.now, model.schedule.draws())
        assert samples[0].subnet == model.schedule.selection.family.full
        drawn.append([s.name for s in samples[1:]])
        model.zero_grad()
        model(**batch())[0].sum().backward()
    assert drawn == [["sparse"], []] * 4
    whole = sparse_model()
    whole.sampler.rule = "whole"
    assert len(whole.sampler.draw(7, advance(whole, 7).schedule.draws())) == 2


def test_sizes_and_sparsities_take_turns():
    model = advance(sparse_model([3, 5, 8]), 6)
    model.sampler.rule = "alternate"
    drawn = []
    for _ in range(8):
        model.begin_update(0)
        samples = model.sampler.draw(model.schedule.now, model.schedule.draws())
        drawn.append(samples[1].name)
    assert drawn[:4] == ["sparse", "3", "5", "sparse"] or drawn.count("sparse") == 4
    assert {"3", "5"} <= set(drawn) and drawn.count("sparse") == 4


def test_what_a_mask_takes_away_gets_no_gradient_from_a_sparse_subnet():
    model = advance(sparse_model(), 16)
    subnet = model.subnet("sparsity80")
    with model.activate("sparsity80"):
        loss, _ = model.stock_loss(model._encode(as_features(batch())), batch())
    loss.backward()
    masks = model.masks(subnet)
    for name, mask in masks.items():
        gradient = model.encoder.get_submodule(name).weight.grad
        assert not gradient[mask == 0].any() and gradient[mask == 1].any(), name
        kept = model.schedule.sparsity.patterns[name].count(mask.shape, 0.8)
        groups = mask.numel() // 4
        assert kept == int((1 - 0.8) * groups + 0.5) or mask.size(0) % 4


def as_features(data: dict) -> dict:
    return {k: v for k, v in data.items() if k.startswith("speech")}


def test_a_masked_matrix_computes_with_zeros():
    model = advance(sparse_model(), 16).eval()
    randomise(model, 0.1)
    other = copy.deepcopy(model)
    data, subnet = batch(), model.subnet("sparsity50")
    with torch.no_grad():
        for name, mask in model.masks(subnet).items():
            other.encoder.get_submodule(name).weight.mul_(mask)
    with model.activate("sparsity50"):
        masked = log_probs(model, data)
    assert torch.equal(masked, log_probs(other, data))
    assert not torch.allclose(masked, log_probs(model, data))


def test_members_are_final_after_freeze_only():
    model = advance(sparse_model([3, 8]), 15)
    assert model.schedule.phase is Phase.SEARCH
    assert model.schedule.last_decision == 16
    with pytest.raises(ConfigError, match="8_sparsity50 is not final: .* freeze"):
        model.subnet("8_sparsity50")
    advance(model, 1)
    assert model.schedule.phase is Phase.JOINT
    assert len(model.subnet("8_sparsity50").sparsity) == len(model.encoder.matrices())
    assert model.subnet(8) == model.subnet("8") == model.schedule.selection.family.full
    for wrong in ("sparsity50", 5, True, "8_sparsity0", 0.5):
        with pytest.raises(ConfigError, match="must be one of .3, '3_sparsity50'"):
            model.subnet(wrong)


def test_validation_has_a_loss_for_every_member_that_is_watched():
    model = advance(sparse_model([3, 8]), 4).eval()
    data = batch()
    with torch.no_grad():
        before = model(**data)[1]
        sparse = {k for k in before if "sparsity" in k}
        assert not sparse
        after = advance(model, 12)(**data)[1]
    watched = ["3", "3_sparsity80", "8", "8_sparsity50", "8_sparsity80"]
    assert {k for k in after if k.startswith("loss_") and k[5].isdigit()} == {
        f"loss_{name}" for name in watched
    }
    mean = sum(float(after[f"loss_{name}"]) for name in watched) / 5
    assert float(after["loss"]) == pytest.approx(mean)


def test_a_resumed_run_is_the_same_bit_for_bit():
    whole, data = sparse_model([3, 5, 8]), batch()
    resumed = None
    for update in range(1, TOTAL + 1):
        if update == 11:  # in the ramp, between two refreshes
            resumed = sparse_model([3, 5, 8])
            resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
        for model in filter(None, (whole, resumed)):
            train(model, data)
    same = dict(rtol=0, atol=0, equal_nan=True)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(value, resumed.state_dict()[name], **same)


def train(model, data) -> None:
    model.begin_update(7)
    torch.manual_seed(model.schedule.now)
    model.zero_grad()
    model(**data)[0].sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.1 * parameter.grad)


def test_averages_of_final_epochs_keep_masks_and_others_are_refused():
    model = advance(sparse_model(), 16)
    early = copy.deepcopy(advance(sparse_model(), 12).state_dict())
    late = copy.deepcopy(model.state_dict())
    mixed = sparse_model()
    mixed.load_state_dict({n: (early[n] + late[n]) / 2 for n in late})
    with pytest.raises(ConfigError, match="not final"):
        mixed.subnet("sparsity50")
    same = sparse_model()
    same.load_state_dict({n: (v + v) / 2 for n, v in late.items()})
    assert torch.equal(
        same.schedule.sparsity.ranks.of("encoders.0.feed_forward.w_1"),
        model.schedule.sparsity.ranks.of("encoders.0.feed_forward.w_1"),
    )


def test_a_subnet_with_a_sparsity_per_matrix():
    model = advance(sparse_model(), 16)
    name = "encoders.1.self_attn.linear_v"
    subnet = Subnet((True,) * 8).sparse({name: 0.25})
    assert model.masks(subnet)[name].mean() == 0.75
    with model.activate(subnet):
        assert isinstance(model.encoder.switch.now, Sampled)
    with pytest.raises(ConfigError, match="matrix=x must be one of"):
        model.activate(Subnet((True,) * 8).sparse({"x": 0.25}))
    dense = build(model_config())
    dense.schedule.selection.fixed_masks.fill_(1.0)
    with pytest.raises(ConfigError, match="trained without sparsity"):
        dense.activate(subnet)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(conv_norm="batch_norm"), "needs conv_norm: layer_norm"),
        (dict(granularity="component", budgets={"params": [1]}), "component"),
        (dict(sparsity={"pattern": "4x1"}), "sparsity=.* must be with levels"),
        (dict(sparsity={"levels": [0, "a"]}), "levels"),
        (dict(sparsity={"levels": LEVELS, "stop": 1}), "stop=1 is not an option of"),
        (dict(selector_conf={"k_step": 2}), "left out: there is one size"),
    ],
)
def test_bad_options_are_refused(changes, message):
    sparsity = {"sparsity": {"levels": LEVELS}}
    with pytest.raises(ConfigError, match=message):
        build(model_config(**{"sizes": None, **sparsity, **changes}))


@pytest.mark.parametrize(
    "given, updates, begins", [({}, 9, 10), ({}, 3, 7), ({"start": 0.5}, 9, 10)]
)
def test_sparsity_begins_after_the_search_of_layers(given, updates, begins):
    conf = dict(sizes=[3, 8], sparsity={"levels": LEVELS, **given})
    conf["selector_conf"] = {"search_updates": updates}
    model = build(model_config({}, **conf))
    model.schedule.plan(TOTAL)
    started = [u for u in range(TOTAL) if model.schedule.sparsity.started(u)]
    assert started[0] == begins


@pytest.mark.parametrize(
    "given, updates, message",
    [
        ({"start": 0.35}, 9, "start=0.35: update=7 must be after the search of layers"),
        ({}, 13, "ramp_end: update=13 must be after the search of layers, which tak"),
    ],
)
def test_a_search_that_leaves_no_time_is_refused(given, updates, message):
    conf = dict(sizes=[3, 8], sparsity={"levels": LEVELS, **given})
    conf["selector_conf"] = {"search_updates": updates}
    model = build(model_config({}, **conf))
    with pytest.raises(ConfigError, match=message):
        model.schedule.plan(TOTAL)


def test_masks_follow_the_model():
    """After a move or a cast, another checkpoint, and validation in inference mode."""
    model = advance(sparse_model(), 16)
    subnet, data = model.sampled(model.subnet("sparsity50")), batch()
    with torch.inference_mode():
        model.eval()(**data)
    for _ in range(4):
        model.train().begin_update(0)
        model(**data)[0].sum().backward()
    other = sparse_model()
    randomise(other, 0.3)
    advance(other, 16)
    model.load_state_dict(other.state_dict())
    for each in (model, other):
        each.eval()
    with model.activate("sparsity50"), other.activate("sparsity50"):
        assert torch.equal(log_probs(model, data), log_probs(other, data))
    model.to(torch.bfloat16)
    halved = data | {"speech": data["speech"].to(torch.bfloat16)}
    with model.encoder.activate(subnet):
        assert log_probs(model, halved).dtype is torch.bfloat16
    with pytest.raises(ConfigError, match="no masks for a sparse Subnet"):
        model.encoder.activate(subnet.subnet)


def test_the_full_network_leads_a_sparse_subnet_in_pairs():
    model = advance(sparse_model([3, 5, 8]), 16)
    model.sampler.rule = "pairs"
    for update in range(17, 77):
        samples = model.sampler.draw(update, torch.Generator().manual_seed(update))
        if samples[-1].name == "sparse":
            assert samples[0].subnet == model.schedule.selection.family.full
