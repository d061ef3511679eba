"""Streaming encoders with ESPnet's streaming script, and what it would misread."""

import pytest
import torch
from espnet2.bin.asr_inference_streaming import Speech2TextStreaming
from experiment import AVERAGED, HYBRID, STREAMING, experiment

import espnet_dynsize
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy.experiment import load_model
from espnet_dynsize.deploy.extract import extract
from espnet_dynsize.train.streaming import check_streaming

GOOD = dict(
    encoder="dynsize_contextual_block_conformer",
    frontend="default",
    frontend_conf={},
    normalize="global_mvn",
    preencoder=None,
    postencoder=None,
    decoder=None,
)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"frontend": None}, "frontend=None must be default with encoder: dynsize_con"),
        ({"frontend": "s3prl"}, "frontend=s3prl must be default"),
        (
            {"frontend_conf": {"center": False}},
            "frontend_conf: center=False must be",
        ),
        ({"frontend_conf": {"apply_stft": False}}, "conf: apply_stft=False must be tr"),
        (
            {"frontend_conf": {"frontend_conf": {"use_wpe": True}}},
            "frontend_conf: frontend_conf: use_wpe=True must be false",
        ),
        ({"normalize": "utterance_mvn"}, "normalize=utterance_mvn must be global_mvn"),
        ({"preencoder": "linear"}, "preencoder=linear must be null"),
        ({"postencoder": "length_adaptor"}, "postencoder=length_adaptor must be null"),
        ({"input_size": 80}, "input_size=80 must be null with encoder: dynsize_con"),
        ({"decoder": "transducer"}, "decoder=transducer must be null or transformer"),
        ({"decoder": "rnn"}, "decoder=rnn must be null or transformer with encoder"),
    ],
)
def test_what_the_script_would_misread(changes, message):
    with pytest.raises(ConfigError, match=message):
        check_streaming(GOOD | changes)
    contexts = {"model_conf": {"contexts": ["whole", "8/4/2"]}}
    check_streaming(GOOD | changes | {"encoder": "dynsize_conformer"} | contexts)
    # Of whole utterances, it streams where it has other contexts.
    whole = {"encoder_conf": {"block_size": 0}}
    check_streaming(GOOD | changes | whole)
    with pytest.raises(ConfigError, match=message):
        check_streaming(GOOD | changes | whole | contexts)


@pytest.mark.parametrize(
    "changes", [{}, {"normalize": None}, {"decoder": "transformer"}]
)
def test_what_streams(changes):
    check_streaming(GOOD | changes)


@pytest.fixture(params=[{}, HYBRID], ids=["ctc", "hybrid"])
def folder(tmp_path, request):
    """A streaming family."""
    changes = dict(normalize=None, encoder="dynsize_contextual_block_conformer")
    changes |= dict(encoder_conf=STREAMING, **request.param)
    if request.param:
        changes["model_conf"] = {"ctc_weight": 0.5, "sizes": [3, 5, 8]}
    folder, _ = experiment(tmp_path / "asr", **changes)
    return folder


def decode(script, audio, chunk):
    """The text of ESPnet's streaming script, and what its encoder has put out."""
    heard = []
    hook = script.beam_search.register_forward_pre_hook(
        lambda module, args, kwargs: heard.append(kwargs["x"]), with_kwargs=True
    )
    pieces = audio.split(chunk)
    for piece in pieces[:-1]:
        script(piece, is_final=False)
    ((text, *_), *_) = script(pieces[-1], is_final=True)
    hook.remove()
    return text, torch.cat(heard)


def test_the_script_decodes_every_size(folder):
    espnet_dynsize.register()
    audio = torch.randn(16_000 * 2)
    for extracted in extract(folder, AVERAGED, []):
        config = extracted.directory / "config.yaml"
        model, options = load_model(extracted.directory, AVERAGED)
        weight = 0.5 if options["decoder"] else 1.0
        script = Speech2TextStreaming(
            asr_train_config=config,
            asr_model_file=config.parent / AVERAGED,
            ctc_weight=weight,
            beam_size=3,
        )
        expected, _ = model.encode(audio[None], torch.tensor([len(audio)]))
        for chunk in (4_000, 9_000, len(audio)):
            text, heard = decode(script, audio, chunk)
            assert text
            torch.testing.assert_close(heard, expected[0], atol=1e-5, rtol=0)


def test_kaldi_s_features_are_of_whole_utterances(tmp_path):
    """ESPnet's script would take them for its own front-end's, with other frames."""
    conf = dict(output_size=8, attention_heads=2, num_blocks=1)
    with pytest.raises(ConfigError, match="frontend=kaldi must be default with a str"):
        experiment(
            tmp_path / "asr",
            model="espnet",
            encoder="contextual_block_conformer",
            encoder_conf=conf,
            model_conf=dict(ctc_weight=1.0),
            frontend="kaldi",
            frontend_conf={},
        )
