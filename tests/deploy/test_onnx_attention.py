"""Models with an attention decoder as ONNX files: encoder, memory and step."""

import numpy as np
import pytest
import torch
from conftest import TOKENS
from espnet2.bin.asr_inference import Speech2Text
from experiment import AVERAGED, experiment

from espnet_dynsize.bin.main import main
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy.onnx import original
from espnet_dynsize.deploy.onnx.export import Options, export
from espnet_dynsize.runtime import InputError, Model

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

RATE = 16_000
ATTENTION = Options(search="attention")
CONV2D = dict(input_layer="conv2d", cnn_module_kernel=5)


def trained(folder, model_conf=None, **decoder_conf):
    """A random model whose sentences end somewhere."""
    conf = dict(attention_heads=2, linear_units=8, num_blocks=2) | decoder_conf
    folder, model = experiment(
        folder,
        CONV2D,
        decoder="transformer",
        decoder_conf=conf,
        model_conf={"ctc_weight": 0.3, "sizes": [3, 5, 8], **(model_conf or {})},
    )
    with torch.no_grad():
        model.decoder.output_layer.weight *= 8
    torch.save(model.state_dict(), folder / AVERAGED)
    return folder, model


def noise(samples):
    rng = np.random.default_rng(samples)
    return rng.normal(size=samples).astype(np.float32) / 10


def heard_by(model, speech):
    numbers = original.greedy(model, torch.from_numpy(speech), "attention")
    return [TOKENS[number] for number in numbers]


@pytest.mark.parametrize(
    "conf",
    [
        {},
        dict(normalize_before=False),
        dict(concat_after=True),
        dict(num_blocks=1, normalize_before=False, concat_after=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("audio", [False, True])
def test_log_probabilities_of_tokens(tmp_path, conf, audio):
    folder, model = trained(tmp_path / "asr", **conf)
    (done,) = export(folder, "", [], ATTENTION._replace(audio=audio))
    names = sorted(path.name for path in (folder / "onnx").iterdir())
    assert names == [f"model_attention{part}.onnx" for part in ("", "_memory", "_step")]
    found = Model(done.path)
    for samples, said in ((960, []), (RATE, [2]), (7 * RATE, [2, 3, 2, 4, 4])):
        speech = noise(samples)
        theirs = original.log_probabilities(
            model, torch.from_numpy(speech), "attention", said
        )
        ours = found.log_probabilities(speech, said)
        assert ours.shape == (1 + len(said), len(TOKENS))
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4)


@pytest.mark.parametrize("bias", [-1.0, 1.0, 30.0])
def test_it_hears_what_espnet_s_search_does(tmp_path, bias):
    folder, model = trained(tmp_path / "asr")
    with torch.no_grad():
        model.decoder.output_layer.bias[-1] += bias  # of the end
    torch.save(model.state_dict(), folder / AVERAGED)
    (done,) = export(folder, "", [], ATTENTION)
    found = Model(done.path)
    espnet = Speech2Text(
        folder / "config.yaml", folder / AVERAGED, beam_size=1, ctc_weight=0.0
    )
    lengths = []
    for samples in (960, 5000, RATE, 3 * RATE):
        speech = noise(samples)
        ours = found.tokens(speech)
        assert ours == heard_by(model, speech)
        (_, theirs, *_), *_ = espnet(speech)
        # Of a sentence that ends at once, ESPnet may show the end.
        assert [token for token in theirs if token != TOKENS[-1]] == ours
        lengths.append((len(ours), len(model_frames(model, speech))))
    if bias < 0:  # no end: as many tokens as frames
        assert all(said == frames for said, frames in lengths)
    if bias == 30:
        assert all(said == 0 for said, _ in lengths)


def test_blanks_are_not_shown(tmp_path):
    folder, model = trained(tmp_path / "asr")
    with torch.no_grad():
        model.decoder.output_layer.bias[0] += 3
    torch.save(model.state_dict(), folder / AVERAGED)
    (done,) = export(folder, "", [], ATTENTION)
    found, speech = Model(done.path), noise(2 * RATE)
    tokens = found.tokens(speech)
    espnet = Speech2Text(
        folder / "config.yaml", folder / AVERAGED, beam_size=1, ctc_weight=0.0
    )
    (_, theirs, *_), *_ = espnet(speech)
    assert tokens == theirs == heard_by(model, speech)
    assert len(tokens) < len(model_frames(model, speech))


def model_frames(model, speech):
    return original.encoded(model, torch.from_numpy(speech))[0]


def test_ctc_is_what_is_written_otherwise(tmp_path, capsys):
    folder, model = trained(tmp_path / "asr")
    given = ["export", "--asr_exp", str(folder)]
    assert main(given) == 0
    assert main([*given, "--search", "attention", "--size", "3"]) == 0
    names = sorted(path.name for path in (folder / "onnx").iterdir())
    assert names == [
        "model.onnx",
        *(f"size3_attention{part}.onnx" for part in ("", "_memory", "_step")),
    ]
    assert Model(folder / "onnx" / "model.onnx").about["kind"] == "ctc"
    with model.activate(3):
        theirs = heard_by(model, noise(RATE))
    assert Model(folder / "onnx" / "size3_attention.onnx").tokens(noise(RATE)) == theirs


def test_integers_and_what_is_too_short(tmp_path):
    folder, model = trained(tmp_path / "asr")
    (done,) = export(folder, "", [], ATTENTION._replace(quantise=True, force=True))
    assert done.path.name == "model_attention_int8.onnx"
    found, speech = Model(done.path), noise(2 * RATE)
    theirs = original.log_probabilities(
        model, torch.from_numpy(speech), "attention", [2]
    )
    error = np.abs(found.log_probabilities(speech, [2]) - theirs.numpy())
    assert 0 < error.mean() < 0.2
    assert found(noise(959)) == ""
    assert found.log_probabilities(noise(959), [2]).shape == (0, len(TOKENS))
    for said in (-1, len(TOKENS)):
        with pytest.raises(InputError, match=f"said={said} must be from 0 to 5"):
            found.log_probabilities(speech, [said])


def test_what_is_refused(tmp_path, capsys):
    ctc, _ = experiment(tmp_path / "ctc", CONV2D)
    with pytest.raises(ConfigError, match="decoder=NoneType must be transformer"):
        export(ctc, "", [], ATTENTION)
    folder, _ = trained(tmp_path / "other", {"sym_eos": "C"})
    with pytest.raises(ConfigError, match="sym_eos=… must be both the last token"):
        export(folder, "", [], ATTENTION)
    folder, _ = trained(tmp_path / "asr")
    with pytest.raises(ConfigError, match="sherpa is for CTC, not for attention"):
        export(folder, "", [], ATTENTION._replace(sherpa=True))
    (done,) = export(folder, "", [], ATTENTION)
    with pytest.raises(InputError, match="beam_size=2 must be 1"):
        Model(done.path, beam_size=2)
    (done.path.parent / "model_attention_step.onnx").unlink()
    with pytest.raises(InputError, match="model_attention_step.onnx is no file"):
        Model(done.path)
