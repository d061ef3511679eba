"""A family of ESPnet's task `asr_transducer`."""

import pytest
import torch
import yaml
from chunked import BODY, FAMILY, SMALL, batch, build, config
from espnet2.asr_transducer.encoder.modules.multi_blocks import MultiBlocks
from espnet2.tasks import asr_transducer
from training import assert_same, train_arguments, write_data

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.encoder.costs import flops
from espnet_dynsize.train.ahead import check_ahead
from espnet_dynsize.train.transducer_task import DynSizeASRTransducerTask


def advance(model, updates=1):
    if not model.schedule.planned:
        model.schedule.plan(100)
    for _ in range(updates):
        model.begin_update(seed=0)


def test_the_full_network_is_the_stock_one():
    model = build(config())
    stock = build(
        config(encoder=None, model=None)
        | {
            "model_conf": {
                "auxiliary_ctc_weight": 0.3,
                "report_cer": True,
            },
            "encoder_conf": {
                k: v for k, v in SMALL["encoder_conf"].items() if k != "conv_norm"
            },
        }
    )
    assert type(stock).__name__ == "ESPnetASRTransducerModel"
    model = build(
        config()
        | {"encoder_conf": {**SMALL["encoder_conf"], "conv_norm": "batch_norm"}}
    )
    missing, unexpected = model.load_state_dict(stock.state_dict(), strict=False)
    assert not unexpected
    assert all("schedule" in name or "by_size" in name for name in missing)
    data = batch()
    found = []
    for each in (model, stock):
        each.eval()
        torch.manual_seed(2)  # the same chunk
        with torch.no_grad():
            encoded = each.encode(data["speech"], data["speech_lengths"])
        found.append(encoded[0])
    assert torch.equal(*found)


def test_a_step_is_the_sum_of_its_subnets():
    model = build(config(dict(sandwich="whole", subnet_weight=0.25)))
    model.encoder.dynamic_chunk_training = False  # drawn anew for every batch
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    advance(model)
    data = batch()
    loss, stats, weight = model(**data)
    loss.backward()
    assert all(p.grad is not None for p in model.encoder.parameters())
    losses = {}
    for size in (3, 5, 8):
        with torch.no_grad(), model.activate(size):
            own, _ = model.stock_loss(model._encode(data), data)
        losses[size] = float(own)
        assert float(stats[f"loss_{size}"]) == pytest.approx(losses[size], rel=1e-5)
        parts = stats[f"loss_transducer_{size}"] + 0.3 * stats[f"loss_aux_ctc_{size}"]
        assert float(parts) == pytest.approx(losses[size], rel=1e-5)
    # Nothing is distilled before the teacher emits tokens.
    total = losses[8] + 0.25 * (losses[3] + losses[5])
    assert float(loss) == pytest.approx(total, rel=1e-5) and weight == 3


@pytest.mark.parametrize("training", [True, False])
def test_subnets_of_a_batch_see_the_same_chunks(training, monkeypatch):
    seen = []

    def call(self, x, pos_enc, mask, chunk_mask=None):
        seen.append(chunk_mask)
        return stock(self, x, pos_enc, mask, chunk_mask=chunk_mask)

    stock = MultiBlocks.forward
    monkeypatch.setattr(MultiBlocks, "forward", call)
    model = build(config(dict(sandwich="whole"))).train(training)
    advance(model)
    frames = set()
    for seed in range(8):
        torch.manual_seed(seed)
        seen.clear()
        model(**batch())
        assert len(seen) == 3 and all(torch.equal(mask, seen[0]) for mask in seen)
        # How many frames the first one may see: its chunk
        frames.add(int((~seen[0][0]).sum()))
    assert len(frames) > 2 if training else frames == {4}


def test_counting_costs_draws_nothing():
    model = build(config())
    torch.manual_seed(0)
    flops(model.encoder)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))


def test_the_auxiliary_ctc_teaches():
    model = build(config(dict(sandwich="whole")))
    advance(model)
    data = batch()
    with torch.no_grad():
        model.ctc_lin.bias[0] -= 10.0  # no blanks: it emits tokens
        model.ctc_lin.weight.mul_(20.0)
    _, stats, _ = model(**data)
    assert float(stats["loss_distill_3"]) > 0
    without = build(config(dict(auxiliary_ctc_weight=0.0)))
    advance(without, 2)
    _, stats, _ = without(**data)
    assert without.ctc is None and not any("distill" in name for name in stats)


def test_validation_has_every_size():
    model = build(config()).eval()
    advance(model)
    _, stats, _ = model(**batch())
    wanted = ("loss_transducer", "cer_transducer", "loss_aux_ctc")
    assert {f"{n}_{s}" for n in wanted for s in (3, 5, 8)} <= set(stats)
    each = [float(stats[f"loss_{size}"]) for size in (3, 5, 8)]
    assert float(stats["loss"]) == pytest.approx(sum(each) / 3)


def test_sparsities_train():
    levels = dict(levels=[0, 0.5], start=0.0, ramp_end=0.0, freeze=0.1)
    given = config(dict(sizes=None, selector_conf=None, sparsity=levels))
    model = build(given)
    advance(model, 21)
    loss, stats, _ = model(**batch())
    assert loss.isfinite() and "loss_sparse" in stats
    name = "encoders.blocks.0.self_att.linear_q"
    assert name in model.schedule.sparsity.patterns
    with model.activate("sparsity50"):
        assert model.encoder.switch.now.masks[name].mean() == 0.5


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model_conf": {"use_k2_pruned_loss": True}}, "use_k2_pruned_loss=True must"),
        ({"model_conf": {"sises": [1]}}, "sises"),
        ({"encoder": "dynsize_conformer"}, "encoder=dynsize_conformer must be one of"),
        (
            {"encoder": None, "encoder_conf": {"body_conf": [BODY]}},
            "needs a supernet encoder",
        ),
        ({"model": None}, "sizes=.* needs model: dynsize"),
    ],
)
def test_what_is_refused(changes, message):
    given = config(changes.pop("model_conf", None), **changes)
    with pytest.raises(ConfigError, match=message):
        build(given)


# -- training, and what follows --


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"), 20)


def train(data, exp, *extra):
    options = ["--keep_nbest_models=1", "--input_size=20", *extra]
    arguments = train_arguments(data, exp, options)
    conf = {**FAMILY, "selector_conf": {"search_updates": 6}}
    path = exp.parent / f"{exp.name}.yaml"
    path.write_text(yaml.safe_dump(SMALL | {"model_conf": conf}))
    DynSizeASRTransducerTask.register()
    asr_transducer.ASRTransducerTask.main(cmd=arguments)
    return torch.load(exp / "checkpoint.pth", weights_only=False)


def test_trains_and_resumes_bit_for_bit(data, tmp_path):
    expected = train(data, tmp_path / "whole", "--max_epoch=4")
    train(data, tmp_path / "two", "--max_epoch=2")
    found = train(data, tmp_path / "two", "--max_epoch=4")
    assert_same(found["model"], expected["model"])
    assert expected["model"]["schedule.update"] == 16
    # Another family is not resumed, nor one that would be validated in other chunks.
    for given, message in (
        ("short_chunk_size: 4", "another encoder_conf"),
        ("dynamic_chunk_training: true", "short_chunk_size=None must be 4, with which"),
    ):
        extra = ["--encoder_conf", f"main_conf={{{given}}}"]
        with pytest.raises(ConfigError, match=message):
            train(data, tmp_path / "two", "--max_epoch=5", *extra)


MVN = ("--normalize", "global_mvn")


def check(tmp_path, *arguments, **changes):
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(SMALL | {"model_conf": FAMILY} | changes))
    check_ahead(["--config", str(path), *arguments], True, transducer=True)


def test_what_a_training_would_refuse_is_found_out_ahead(tmp_path):
    check(tmp_path, *MVN)
    with pytest.raises(ConfigError, match="sizes=.* must end with the full size, 8"):
        check(tmp_path, *MVN, model_conf=FAMILY | {"sizes": [3, 9]})
    with pytest.raises(ConfigError, match="unrecognized arguments: ctc_conf"):
        check(tmp_path, *MVN, ctc_conf={})
    with pytest.raises(ConfigError, match="frontend=s3prl must be one of default"):
        whole = SMALL["encoder_conf"] | {"main_conf": {}}
        check(tmp_path, *MVN, frontend="s3prl", encoder_conf=whole)


def test_what_would_not_stream_is_refused_before_training(data, tmp_path):
    options = ["--frontend=default", "--normalize=utterance_mvn", "--input_size=null"]
    with pytest.raises(ConfigError, match="normalize=utterance_mvn must be global_mvn"):
        train(data, tmp_path / "exp", *options)
