import pytest
import torch
from conftest import batch, build, fix_masks, model_config

from espnet_dynsize.errors import ConfigError
from espnet_dynsize.subnet import Subnet


def joint_model(**changes):
    model = build(
        model_config(dropout_rate=0.0, positional_dropout_rate=0.0, **changes)
    )
    fix_masks(model.schedule)
    return model


def stock_loss(model, subnet, data):
    """The loss through ESPnet's own forward."""
    schedule, model.encoder.schedule = model.encoder.schedule, None
    try:
        with model.encoder.activate(subnet):
            return model(**data)[0].squeeze()
    finally:
        model.encoder.schedule = schedule


def test_joint_loss_is_the_weighted_sum_of_the_sandwich():
    model = joint_model().train()
    data = batch()
    loss, stats, weight = model(**data)
    full, small, middle = (
        stock_loss(model, model.schedule.subnet(s), data) for s in (8, 3, 5)
    )
    torch.testing.assert_close(loss.squeeze(), full + 0.3 * small + 0.3 * middle)
    torch.testing.assert_close(stats["loss_5"].squeeze(), middle.detach())
    assert weight == 3
    assert stats["phase"] == 1


def test_search_loss_is_full_plus_gated():
    model = build(model_config(dropout_rate=0.0, positional_dropout_rate=0.0)).train()
    model.schedule.plan(100)
    model.schedule.begin_update(0)
    data = batch()
    loss, stats, _ = model(**data)
    gates = model.schedule.selector.gates(0, 60, None).values
    everything = (True,) * 8
    full = stock_loss(model, Subnet(8, everything), data)
    gated = stock_loss(model, Subnet(7, everything, gates=gates), data)
    torch.testing.assert_close(loss.squeeze(), full + 0.3 * gated)
    assert stats["k"] == 7 and stats["phase"] == 0


def test_search_gives_every_score_a_gradient():
    model = build(model_config()).train()
    model.schedule.plan(100)
    model.schedule.begin_update(0)
    model(**batch())[0].sum().backward()
    assert (model.schedule.selector.scores.grad != 0).all()


def test_validation_reports_every_size_and_their_mean():
    model = joint_model().eval()
    with torch.no_grad():
        loss, stats, _ = model(**batch())
    sizes = [stats[f"loss_{s}"] for s in (3, 5, 8)]
    torch.testing.assert_close(loss, sum(sizes) / 3)
    cers = [stats[f"cer_ctc_{s}"] for s in (3, 5, 8)]
    torch.testing.assert_close(stats["cer_ctc"], sum(cers) / 3)


def test_features_are_computed_once(monkeypatch):
    model = joint_model().train()
    calls = []
    original = model._extract_feats
    monkeypatch.setattr(
        model, "_extract_feats", lambda *a: calls.append(1) or original(*a)
    )
    model(**batch())
    assert len(calls) == 1


def test_one_output_layer_per_size():
    model = joint_model().train()
    model(**batch())[0].sum().backward()
    ctc_lo = model.ctc.ctc_lo
    assert sorted(ctc_lo.by_size) == ["3", "5"]
    assert all(layer.weight.grad is not None for layer in ctc_lo.by_size.values())
    with torch.no_grad():
        ctc_lo.by_size["3"].weight.zero_()
        ctc_lo.by_size["3"].bias.copy_(torch.arange(6.0))
    x = torch.randn(1, 2, 8)
    with model.encoder.activate(model.schedule.subnet(3)):
        assert torch.equal(ctc_lo(x)[0, 0], torch.arange(6.0))
    assert not torch.equal(ctc_lo(x)[0, 0], torch.arange(6.0))


def test_shared_output_layer():
    model = build(model_config(model_conf={"output_per_size": False}))
    assert "ctc.ctc_lo.weight" in model.state_dict()
    assert not any("by_size" in name for name in model.state_dict())


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
