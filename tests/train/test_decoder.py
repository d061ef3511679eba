"""Hybrid CTC/attention models."""

import pytest
import torch
import yaml
from conftest import batch, build, fix_masks, model_config, randomise
from experiment import AVERAGED, experiment

import espnet_dynsize
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


def test_an_extracted_model_has_the_decoder(tmp_path):
    model, config = joint()
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


@pytest.mark.parametrize("decoder", ["transformer", "rnn"])
@pytest.mark.parametrize("size", [3, 5, 8])
def test_a_search_that_was_built_before_decodes_as_the_size(tmp_path, size, decoder):
    """ESPnet's Speech2Text takes the decoder once, for all sizes to come."""
    conf = {"transformer": {"linear_units": 8, "attention_heads": 2}, "rnn": {}}
    exp, model = experiment(
        tmp_path / "asr",
        decoder=decoder,
        decoder_conf=conf[decoder],
        model_conf={"ctc_weight": 0.3, "sizes": [3, 5, 8]},
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
