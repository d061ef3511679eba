import math
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from conftest import batch, build, fix_masks, model_config, stock_config
from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.subnet import Sampled, Subnet
from espnet_dynsize.train.blanks import begin_with_blanks
from espnet_dynsize.train.objectives import Distillation, Encoded, Teacher

NO_DROPOUT = dict(dropout_rate=0.0, positional_dropout_rate=0.0)


def joint_model(model_conf=None, **changes):
    model = build(model_config(model_conf or {}, **NO_DROPOUT, **changes))
    fix_masks(model.schedule)
    return model


def search_model(**model_conf):
    model = build(model_config(model_conf, **NO_DROPOUT)).train()
    model.schedule.selection.plan(100)
    model.begin_update(0)
    return model


def stock_loss(model, chosen, data):
    """The loss through ESPnet's own forward."""
    with model.encoder.activate(chosen):
        return ESPnetASRModel.forward(model, **data)[0].squeeze()


def test_joint_loss_is_the_weighted_sum_of_the_sandwich():
    model = joint_model().train()
    data = batch()
    loss, stats, weight = model(**data)
    full, small, middle = (stock_loss(model, model.subnet(s), data) for s in (8, 3, 5))
    torch.testing.assert_close(loss.squeeze(), full + 0.3 * small + 0.3 * middle)
    torch.testing.assert_close(stats["loss_5"].squeeze(), middle.detach())
    assert weight == 3
    assert stats["phase"] == 1


def test_search_loss_is_full_plus_gated():
    model = search_model()
    data = batch()
    loss, stats, _ = model(**data)
    gates = model.schedule.selection.selector.gates(0, 60, None).values
    everything = (True,) * 8
    full = stock_loss(model, Subnet(everything), data)
    gated = stock_loss(model, Sampled(Subnet(everything, "3"), gates=gates), data)
    torch.testing.assert_close(loss.squeeze(), full + 0.3 * gated)
    assert stats["k"] == 7 and stats["phase"] == 0


def test_search_gives_every_score_a_gradient():
    model = search_model()
    model(**batch())[0].sum().backward()
    assert (model.schedule.selection.selector.scores.grad != 0).all()


@pytest.mark.parametrize("phase", ["search", "joint"])
def test_gradients_that_are_computed_early_are_the_same(phase, monkeypatch):
    """One subnet after another, with and without freeing each one's memory."""
    conf = dict(distill_weight=0.5)
    model = search_model(**conf) if phase == "search" else joint_model(conf).train()
    data, found = batch(), []
    for early in (True, False):
        if not early:
            monkeypatch.setattr(
                "espnet_dynsize.train.model.release", lambda loss, _: loss
            )
        model.zero_grad()
        loss = model(**data)[0].sum()
        (3 * loss).backward()
        found.append((loss, {n: p.grad for n, p in model.named_parameters()}))
    (loss, lean), (expected, whole) = found
    assert torch.equal(loss, expected)
    assert any("embed" in name for name in whole)
    for name, gradient in whole.items():
        if gradient is None:
            assert lean[name] is None
        else:
            torch.testing.assert_close(lean[name], gradient, msg=name)


def test_alternate_trains_the_smaller_sizes_in_turn():
    model = joint_model({"sandwich": "alternate", "subnet_weight": 0.6}).train()
    drawn = []
    for _ in range(4):
        model.begin_update(0)
        loss, stats, _ = model(**batch())
        (size,) = (s for s in (5, 3) if f"loss_{s}" in stats)
        drawn.append(size)
        expected = stats["loss_8"] + 0.6 * stats[f"loss_{size}"]
        torch.testing.assert_close(loss, expected)
    assert drawn in ([3, 5, 3, 5], [5, 3, 5, 3])


def test_pairs_leave_each_size_out_in_turn():
    model = joint_model({"sandwich": "pairs", "subnet_weight": 0.5}).train()
    data, trained = batch(), []
    for _ in range(3):
        model.begin_update(0)
        loss, stats, _ = model(**data)
        larger, smaller = (s for s in (8, 5, 3) if f"loss_{s}" in stats)
        trained.append((larger, smaller))
        expected = stats[f"loss_{larger}"] + 0.5 * stats[f"loss_{smaller}"]
        torch.testing.assert_close(loss, expected)
        for size in (larger, smaller):
            own = stock_loss(model, model.subnet(size), data)
            torch.testing.assert_close(stats[f"loss_{size}"].squeeze(), own.detach())
    assert sorted(trained) == [(5, 3), (8, 3), (8, 5)]


@pytest.mark.parametrize("ctc_weight, distill_weight", [(1.0, 0.5), (0.0, 0.0)])
def test_default_joint_step(ctc_weight, distill_weight):
    config = model_config()
    config["model_conf"] = {"ctc_weight": ctc_weight, "sizes": [3, 5, 8]}
    if not ctc_weight:
        config["decoder"] = "transformer"
        config["decoder_conf"] = {"linear_units": 8, "attention_heads": 2}
    model = build(config)
    weights = [o.weight for o in model.objectives if isinstance(o, Distillation)]
    assert weights == ([distill_weight] if distill_weight else [])
    assert (model.sampler.rule, model.sampler.subnet_weight) == ("alternate", 0.3)


@pytest.mark.parametrize("sandwich, every", [("alternate", 2), ("pairs", 3)])
def test_search_gates_every_second_or_third_step(sandwich, every):
    model = search_model(sandwich=sandwich)
    gated = []
    for _ in range(6):
        gated.append("loss_gated" in model(**batch())[1])
        model.begin_update(0)
    assert gated == [step % every == 0 for step in range(6)]


def test_distillation_adds_the_divergence_from_the_full_network():
    model = joint_model({"distill_weight": 0.5}).train()
    # One that begins with blanks emits nothing, and so teaches nothing.
    torch.nn.init.zeros_(model.ctc.ctc_lo.bias)
    data = batch()
    loss, stats, _ = model(**data)
    losses, outputs, lengths = {}, {}, None
    for size in (8, 3, 5):
        subnet = model.subnet(size)
        losses[size] = stock_loss(model, subnet, data)
        with model.encoder.activate(subnet):
            out, lengths, _ = model.encoder(data["speech"], data["speech_lengths"])
            outputs[size] = model.ctc.log_softmax(out)
    distances = {
        size: sum(
            (outputs[8].exp() * (outputs[8] - outputs[size]))[i, :n].sum()
            for i, n in enumerate(lengths)
        )
        / 3
        for size in (3, 5)
    }
    torch.testing.assert_close(stats["loss_distill_3"].squeeze(), distances[3].detach())
    expected = losses[8] + sum(
        0.3 * (losses[size] + 0.5 * distances[size]) for size in (3, 5)
    )
    torch.testing.assert_close(loss.squeeze(), expected)


def test_distillation_only_from_a_teacher_that_emits_half_of_the_text():
    """By hand: of four sequences, the first and the last count, seven frames in all."""
    best = [[1, 1, 0, 2], [1, 1, 1, 0], [0, 1, 2, 2], [1, 0, 1, 0]]
    lengths = torch.tensor([4, 4, 2, 3])
    # Emitted 2, 1, 1 (padding is none), 2, the same token twice
    texts = torch.tensor([4, 3, 3, 4])
    taught = torch.nn.functional.one_hot(torch.tensor(best), 3) * 0.7 + 0.1
    model = SimpleNamespace(
        blank_id=0,
        encoder=SimpleNamespace(activate=lambda sampled: nullcontext()),
        ctc=SimpleNamespace(log_softmax=lambda logits: logits.log_softmax(dim=-1)),
    )
    teacher = Teacher(model, Encoded(taught.log(), lengths))
    assert teacher.emitted.tolist() == [2, 1, 1, 2]
    uniform = Encoded(torch.zeros(4, 4, 3), lengths)
    args = model, None, uniform, {"text_lengths": texts}
    loss, stats = Distillation(0.5)(*args, teacher)
    divergence = math.log(3) + 0.8 * math.log(0.8) + 2 * 0.1 * math.log(0.1)
    expected = (4 + 3) * divergence / 4
    assert stats["loss_distill"].item() == pytest.approx(expected, rel=1e-5)
    assert loss.item() == pytest.approx(0.5 * expected, rel=1e-5)
    assert Distillation(0.5)(*args, None) == (0.0, {})


def test_distillation_does_not_move_the_full_network():
    model = joint_model({"distill_weight": 1.0}).train()
    data = batch()
    full, small = (Sampled(model.subnet(size)) for size in (8, 3))
    encodings = []
    for sampled in (full, small):
        with model.encoder.activate(sampled):
            encodings.append(model._encode(data))
    encodings[0].last.retain_grad()
    with model.encoder.activate(small):
        teacher = Teacher(model, encodings[0])
        Distillation(1.0)(model, small, encodings[1], data, teacher)[0].backward()
    assert encodings[0].last.grad is None


def test_smaller_sizes_start_from_the_gated_statistics():
    model = build(model_config(conv_norm="batch_norm", **NO_DROPOUT)).train()
    model.schedule.selection.plan(100)
    model.begin_update(0)
    norm = model.encoder.encoders[0].conv_module.norm
    for _ in range(60):
        model(**batch())
        small, middle = (norm.by_size[size].running_mean for size in ("3", "5"))
        assert not torch.equal(small, middle)
        model.begin_update(0)
    assert model.schedule.phase == 1
    assert torch.equal(small, middle) and not torch.equal(small, norm.running_mean)


@pytest.mark.parametrize(
    "conf, message",
    [
        ({"subnet_weight": -1}, "subnet_weight=-1 must be above 0"),
        ({"sandwich": "half"}, "sandwich=half must be one of"),
        ({"distill_weight": -0.1}, "distill_weight=-0.1 must be at least 0"),
        ({"subnet_weight": float("inf")}, "subnet_weight=inf must be above 0"),
        (
            {"layer_drop_joint": 1.0},
            "layer_drop_joint=1.0 must be at least 0 and bel",
        ),
        ({"layer_drop_joint": -0.1}, "layer_drop_joint=-0.1 must be at least 0"),
        ({"sizes": None}, "sizes=None and budgets=None: model: dynsize needs"),
    ],
)
def test_bad_model_conf(conf, message):
    with pytest.raises(ConfigError, match=message):
        build(model_config(conf))


def test_validation_reports_every_size_and_their_mean():
    model = joint_model().eval()
    with torch.no_grad():
        loss, stats, _ = model(**batch())
    sizes = [stats[f"loss_{s}"] for s in (3, 5, 8)]
    torch.testing.assert_close(loss, sum(sizes) / 3)
    cers = [stats[f"cer_ctc_{s}"] for s in (3, 5, 8)]
    torch.testing.assert_close(stats["cer_ctc"], sum(cers) / 3)


def test_features_and_front_end_are_computed_once():
    model = joint_model().train()
    calls = []

    class Normalize(torch.nn.Module):
        def forward(self, speech, lengths):
            calls.append("normalize")
            return speech, lengths

    model.normalize = Normalize()
    model.encoder.embed[0].register_forward_hook(lambda *_: calls.append("embed"))
    model(**batch())
    assert calls == ["normalize", "embed"]


class Scaled(torch.nn.Module):
    """A front-end, or a pre-encoder, with a weight that trains; counts its calls."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(5))
        self.calls = 0

    def forward(self, speech, lengths):
        self.calls += 1
        return speech * self.scale, lengths


@pytest.mark.parametrize("part", ["frontend", "preencoder"])
@pytest.mark.parametrize("phase", ["search", "joint"])
def test_what_comes_before_the_encoder_trains_and_runs_once(part, phase):
    model = search_model() if phase == "search" else joint_model().train()
    scaled = Scaled()
    setattr(model, part, scaled)
    data = batch()
    names = ["8", "gated"] if phase == "search" else ["8", "5", "3"]
    loss, stats, _ = model(**data)
    loss.sum().backward()
    assert scaled.calls == 1 and set(names) == {
        name.removeprefix("loss_") for name in stats if name.startswith("loss_")
    } - {"ctc_8", "ctc_5", "ctc_3", "ctc_gated"}
    # The same features, scaled by hand.
    expected = scaled.scale.grad.clone()
    speech = (data["speech"] * torch.ones(5)).requires_grad_()
    setattr(model, part, None)
    model(**{**data, "speech": speech})[0].sum().backward()
    torch.testing.assert_close(expected, (speech.grad * data["speech"]).sum((0, 1)))


def test_scaled_gradients_are_left_to_the_trainer(monkeypatch):
    """In float16, gradients that are computed early would vanish."""
    released = []
    monkeypatch.setattr(
        "espnet_dynsize.train.model.release",
        lambda loss, _: released.append(loss) or loss,
    )
    model = joint_model().train()
    for dtype, early in ((torch.float16, 0), (torch.bfloat16, 2)):
        released.clear()
        monkeypatch.setattr(torch, "get_autocast_dtype", lambda _, d=dtype: d)
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: True)
        model(**batch())
        assert len(released) == early


def test_every_size_starts_from_the_statistics_that_were_loaded():
    fresh = build(model_config(conv_norm="batch_norm", **NO_DROPOUT)).train()
    norm = fresh.encoder.encoders[0].conv_module.norm
    norm.running_mean.fill_(3.0)  # as --init_param of a stock model does
    fresh.schedule.selection.plan(100)
    fresh.begin_update(0)
    assert all((m.running_mean == 3.0).all() for m in norm.by_size.values())
    norm.running_mean.fill_(4.0)
    fresh.begin_update(0)  # only once
    assert (norm.by_size["3"].running_mean == 3.0).all()
    assert fresh.schedule.started


def test_intermediate_ctc_is_in_the_statistics_and_the_loss():
    """As ESPnet computes it, for every size, also with conditioning."""
    conf = {"interctc_weight": 0.3}
    layers = {"interctc_layer_idx": [1], "interctc_use_conditioning": True}
    model = joint_model(conf, **layers).train()
    data = batch()
    loss, stats, _ = model(**data)
    for size, weight in ((8, 1.0), (5, 0.3), (3, 0.3)):
        assert stats[f"loss_interctc_layer1_{size}"] > 0
        assert f"cer_interctc_layer1_{size}" not in stats  # ESPnet: not in training
        expected = stock_loss(model, model.subnet(size), data)
        torch.testing.assert_close(stats[f"loss_{size}"].squeeze(), expected.detach())
        loss = loss - weight * stats[f"loss_{size}"]
    torch.testing.assert_close(loss, torch.zeros_like(loss), atol=1e-4, rtol=0)
    _, stats, _ = model.eval()(**data)
    assert {"cer_interctc_layer1", "cer_interctc_layer1_3"} <= set(stats)


def test_all_sizes_share_the_output_layer():
    stock = build(stock_config()).ctc.state_dict()
    assert build(model_config()).ctc.state_dict().keys() == stock.keys()


def test_attention_decoder():
    config = model_config(model_conf={"ctc_weight": 0.3})
    config.update(
        decoder="transformer",
        decoder_conf=dict(attention_heads=2, linear_units=8, num_blocks=1),
    )
    model = build(config).train()
    fix_masks(model.schedule)
    _, stats, _ = model(**batch())
    for size in (3, 5, 8):
        total = 0.3 * stats[f"loss_ctc_{size}"] + 0.7 * stats[f"loss_att_{size}"]
        torch.testing.assert_close(stats[f"loss_{size}"], total)


def test_the_caller_s_batch_is_left_alone():
    model = joint_model().train()
    data = batch()
    lengths = data["text_lengths"].clone()
    model(**data)
    assert torch.equal(data["text_lengths"], lengths)


def test_stock_encoder_is_refused():
    config = model_config()
    config["encoder"] = "conformer"
    config["encoder_conf"] = {}
    with pytest.raises(ConfigError, match="needs a supernet encoder"):
        build(config)


@pytest.mark.parametrize("conf", [{}, {"selector": "random", "selector_conf": {}}])
def test_starts_from_the_weights_and_random_numbers_of_a_stock_model(conf):
    model = seeded(model_config(conv_norm="batch_norm", **conf))
    numbers = torch.rand(3)
    stock = seeded_stock()
    assert torch.equal(numbers, torch.rand(3))
    assert_contains(model.state_dict(), stock.state_dict())


def test_full_size_alone_trains_bit_for_bit_like_a_stock_model():
    alone = dict(sizes=[8], selector="random", selector_conf={"search_updates": 0})
    model = seeded(model_config({}, conv_norm="batch_norm", **alone))
    model.schedule.selection.plan(20)
    stock = seeded_stock()
    data = batch()
    for each in (stock, model):
        torch.manual_seed(1)  # dropout
        optimizer = torch.optim.Adam(each.parameters(), lr=0.01)
        for _ in range(6):
            if each is model:
                each.begin_update(0)
            optimizer.zero_grad()
            each(**data)[0].squeeze().backward()
            optimizer.step()
    assert_contains(model.state_dict(), stock.state_dict())


def seeded(config: dict):
    torch.manual_seed(0)
    return build(config).train()


def seeded_stock():
    """With the output layer that families begin with."""
    stock = seeded(stock_config())
    begin_with_blanks(stock.ctc.ctc_lo)
    return stock


def assert_contains(state: dict, part: dict) -> None:
    for name, value in part.items():
        assert torch.equal(state[name], value), name


def test_distillation_needs_the_same_frames():
    with pytest.raises(ConfigError, match="distill_weight=0.5 must be 0 with ctc_trim"):
        build(model_config({"distill_weight": 0.5}, ctc_trim=True))
    assert build(model_config({"distill_weight": 0.0}, ctc_trim=True)).objectives


@pytest.mark.parametrize(
    "model_conf, decoder, refused",
    [
        ({}, None, True),
        ({"ctc_weight": 0.3}, "transformer", True),
        ({"ctc_weight": 0.0}, "transducer", True),
        ({"ctc_weight": 0.0}, "transformer", False),
        ({"sym_blank": "!"}, None, False),
    ],
)
def test_tokens_begin_with_the_blank(model_conf, decoder, refused):
    """Whisper's begin with "!", which ESPnet's CTC would take for the blank."""
    config = model_config(model_conf)
    config["token_list"] = ["!", "<blank>", "A", "B", "C", "<sos/eos>"]
    config["decoder"] = decoder
    if decoder == "transformer":
        config["decoder_conf"] = {"linear_units": 8, "attention_heads": 2}
    elif decoder == "transducer":
        config["joint_net_conf"] = {"joint_space_size": 8}
    message = "token_list: the first token=! must be <blank>, which CTC and transducers"
    with pytest.raises(ConfigError, match=message) if refused else nullcontext():
        build(config)
    config["token_list"] = ["<blank>"]
    if refused:
        with pytest.raises(ConfigError, match="must be of more tokens than the blank"):
            build(config)
