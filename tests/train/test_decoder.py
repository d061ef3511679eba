"""Hybrid CTC/attention models."""

import inspect

import pytest
import torch
import yaml
from conftest import batch, build, fix_masks, model_config, randomise
from espnet2.asr.decoder.transformer_decoder import TransformerDecoder
from experiment import AVERAGED, experiment

import espnet_dynsize
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy.experiment import load_model
from espnet_dynsize.deploy.extract import extract

MODEL = "valid.acc.ave.pth"


def hybrid(**model_conf):
    config = model_config({"ctc_weight": 0.3, **model_conf})
    config["decoder"] = "transformer"
    config["decoder_conf"] = {
        "attention_heads": 2,
        "linear_units": 8,
        "num_blocks": 1,
        "dropout_rate": 0.0,
    }
    return build(config), config


def joint(**model_conf):
    model, config = hybrid(**model_conf)
    fix_masks(model.schedule)
    randomise(model, 0.2)
    return model.eval(), config


def statistics(model, size, data):
    """Loss and accuracy of a size alone."""
    with model.activate(model.subnet(size)):
        out, lengths = model.encode(data["speech"], data["speech_lengths"])
        return model._calc_att_loss(out, lengths, data["text"], data["text_lengths"])


@pytest.mark.parametrize("per_size", [False, True])
def test_extracted_model_has_its_size_s_decoder(tmp_path, per_size):
    model, config = joint(decoder_per_size=per_size)
    exp = tmp_path / "asr"
    exp.mkdir()
    (exp / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save(model.state_dict(), exp / MODEL)
    data = batch()
    losses = []
    for extracted in extract(exp, MODEL, []):
        small, _ = load_model(extracted.directory, MODEL)
        expected = statistics(model, int(extracted.name), data)[0]
        _, stats, _ = small(**{k: v.clone() for k, v in data.items()})
        torch.testing.assert_close(stats["loss_att"].squeeze(), expected.detach())
        losses.append(expected.item())
        assert "by_size" not in " ".join(small.state_dict())
    assert len(set(losses)) == 3


def test_each_size_trains_its_own_decoder():
    model, _ = joint(decoder_per_size=True)
    model.train()
    data = batch()
    loss, stats, _ = model(**data)
    torch.testing.assert_close(
        loss.squeeze(),
        (stats["loss_8"] + 0.3 * stats["loss_3"] + 0.3 * stats["loss_5"]).squeeze(),
    )
    whole = model.decoder
    small = whole.by_size["3"]
    model.zero_grad()
    statistics(model, 3, data)[0].backward()
    assert small.embed[0].weight.grad.abs().sum() > 0
    assert whole.embed[0].weight.grad is None
    assert whole.by_size["5"].embed[0].weight.grad is None


@pytest.mark.parametrize("decoder", ["transformer", "rnn"])
@pytest.mark.parametrize("size", [3, 5, 8])
def test_a_search_that_was_built_before_decodes_as_the_size(tmp_path, size, decoder):
    """ESPnet's Speech2Text takes the decoder once, for all sizes to come."""
    conf = {"transformer": {"linear_units": 8, "attention_heads": 2}, "rnn": {}}
    exp, model = experiment(
        tmp_path / "asr",
        decoder=decoder,
        decoder_conf=conf[decoder],
        model_conf={"ctc_weight": 0.3, "sizes": [3, 5, 8], "decoder_per_size": True},
    )
    audio, options = (
        torch.randn(6000),
        dict(beam_size=2, ctc_weight=0.3, maxlenratio=-8),
    )
    small = espnet_dynsize.load(exp, size, AVERAGED, **options)
    whole = espnet_dynsize.load(exp, None, AVERAGED, **options)
    with whole.asr_model.activate(size):
        ours = whole(audio)
    theirs = small(audio)
    assert [tokens for _, tokens, *_ in ours] == [tokens for _, tokens, *_ in theirs]
    torch.testing.assert_close(ours[0][3].score, theirs[0][3].score)


def test_smaller_decoders_start_from_the_gated_one():
    model, _ = hybrid(decoder_per_size=True)
    model.schedule.selection.plan(10)
    decoders = model.decoder.by_size
    model.begin_update(0)  # the first one gives every size the full one's
    with torch.no_grad():
        decoders["3"].embed[0].weight.fill_(7.0)
    while model.schedule.phase == 0:
        model.begin_update(0)
    assert (decoders["5"].embed[0].weight == 7.0).all()
    assert not (model.decoder.embed[0].weight == 7.0).any()


def test_fixed_subnet_decodes_with_its_own_decoder():
    model, config = joint(decoder_per_size=True)
    config["model_conf"]["subnet"] = 5
    fixed = build(config)
    fixed.load_state_dict(model.state_dict())
    assert fixed.decoder.of_size() is fixed.decoder.by_size["5"]


@pytest.mark.parametrize(
    "decoder, conf", [(None, {}), ("transducer", {"ctc_weight": 0.3})]
)
def test_decoder_per_size_needs_attention(decoder, conf):
    config = model_config({**conf, "decoder_per_size": True})
    config["decoder"] = decoder
    config["decoder_conf"] = {"hidden_size": 8} if decoder else {}
    config["joint_net_conf"] = {"joint_space_size": 8} if decoder else None
    with pytest.raises(ConfigError, match="needs an attention decoder"):
        build(config)


def test_a_decoder_per_size_takes_the_stock_one_s_arguments():
    """ESPnet's beam search asks the signature whether padding can be masked."""
    decoder = hybrid(decoder_per_size=True)[0].decoder
    stock = inspect.signature(TransformerDecoder.batch_score)
    assert "xs_mask" in stock.parameters
    assert inspect.signature(type(decoder).batch_score) == stock
