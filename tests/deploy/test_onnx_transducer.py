"""Transducers as ONNX files: encoder, prediction network and joint network."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TOKENS
from experiment import AVERAGED, experiment

from espnet_dynsize import runtime
from espnet_dynsize.bin.main import main
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy.experiment import load_model
from espnet_dynsize.deploy.onnx import original
from espnet_dynsize.deploy.onnx.export import Options, export
from espnet_dynsize.runtime import AT_ONCE, InputError, Model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

RATE = 16_000
TRANSDUCER = dict(
    decoder="transducer",
    decoder_conf=dict(hidden_size=6),
    joint_net_conf=dict(joint_space_size=10),
)


def trained(folder, rnn_type="lstm", layers=1, **changes):
    """A random transducer that says something."""
    conf = {"ctc_weight": 0.3, "report_cer": False, "report_wer": False}
    changes = {**TRANSDUCER, "model_conf": {**conf, "sizes": [3, 5, 8]}, **changes}
    changes["decoder_conf"] = dict(hidden_size=6, rnn_type=rnn_type, num_layers=layers)
    folder, model = experiment(
        folder, dict(input_layer="conv2d", cnn_module_kernel=5), **changes
    )
    with torch.no_grad():
        model.joint_network.lin_out.weight *= 6
        # At first, blank is not the best token of a fifth of the frames.
        first = original.log_probabilities(
            model, torch.from_numpy(noise(3 * RATE)), "transducer"
        )
        margin = first[:, 1:].max(dim=1).values - first[:, 0]
        model.joint_network.lin_out.bias[0] += margin.quantile(0.8)
    torch.save(model.state_dict(), folder / AVERAGED)
    return folder, model


def noise(samples, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=samples).astype(np.float32) / 10


@pytest.mark.parametrize("rnn_type, layers", [("lstm", 1), ("lstm", 2), ("gru", 2)])
@pytest.mark.parametrize("audio", [False, True])
def test_it_hears_what_espnet_s_search_does(tmp_path, rnn_type, layers, audio):
    folder, model = trained(tmp_path / "asr", rnn_type, layers)
    (done,) = export(folder, "", [], Options(audio=audio))
    names = sorted(path.name for path in (folder / "onnx").iterdir())
    assert names == ["model.onnx", "model_joint.onnx", "model_prediction.onnx"]
    found = Model(done.path)
    counts = []
    for samples in (960, 5000, 5 * RATE, 12 * RATE + 7):
        speech = noise(samples, samples)
        numbers = original.greedy(model, torch.from_numpy(speech), "transducer")
        assert found.tokens(speech) == [TOKENS[number] for number in numbers]
        frames = len(found.run(found._heard(speech)))
        counts.append((len(numbers), frames))
    said, frames = counts[-1]
    # Blanks and tokens take turns, and there are stretches longer than a look ahead.
    assert frames > 10 * AT_ONCE and frames / 40 < said < frames * 0.9


def test_log_probabilities_after_tokens(tmp_path):
    folder, model = trained(tmp_path / "asr", layers=2)
    (done,) = export(folder, "", [], Options())
    found, speech = Model(done.path), noise(RATE)
    for said in ([], [2], [2, 3, 2]):
        theirs = original.log_probabilities(
            model, torch.from_numpy(speech), "transducer", said
        )
        ours = found.log_probabilities(speech, said)
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4)


def test_what_is_too_short_is_silence(tmp_path):
    folder, _ = trained(tmp_path / "asr")
    (done,) = export(folder, "", [], Options())
    found = Model(done.path)
    assert found.too_short(noise(959)) and not found.too_short(noise(960))
    assert found(noise(959)) == "" and found(np.zeros(0)) == ""


def test_members_in_integers(tmp_path, capsys):
    folder, model = trained(tmp_path / "asr")
    given = ["export", "--asr_exp", str(folder), "--quantize", "int8", "--force"]
    assert main([*given, "--size", "3"]) == 0
    names = sorted(path.name for path in (folder / "onnx").iterdir())
    assert names == [f"size3_int8{part}.onnx" for part in ("", "_joint", "_prediction")]
    found = Model(folder / "onnx" / "size3_int8.onnx")
    speech = noise(3 * RATE)
    with model.activate(3):
        theirs = original.log_probabilities(
            model, torch.from_numpy(speech), "transducer", [2]
        )
    error = np.abs(found.log_probabilities(speech, [2]) - theirs.numpy())
    assert 0 < error.mean() < 0.1


def test_errors_are_those_of_the_transducer(tmp_path):
    from espnet_dynsize.deploy.onnx import heard

    folder, model = trained(tmp_path / "asr")
    (done,) = export(folder, "", [], Options())
    speech = noise(4 * RATE)
    before, after = heard._of_both(model, Model(done.path), speech)
    assert before == after == Model(done.path)(speech) != ""
    # Not those of CTC
    numbers = original.greedy(model, torch.from_numpy(speech), "ctc")
    assert Model(done.path).text([TOKENS[n] for n in numbers]) != after


def test_a_file_that_computes_something_else_is_not_kept(tmp_path, monkeypatch):
    from espnet_dynsize.deploy.twin import transducer

    folder, _ = trained(tmp_path / "asr")

    def wrong(self, frames, said):
        return (
            torch.log_softmax(self.out(self.activation(frames)), dim=-1)
            + 0 * said.sum()
        )

    monkeypatch.setattr(transducer.Joint, "forward", wrong)
    with pytest.raises(ConfigError, match="something else"):
        export(folder, "", [], Options())
    assert not (folder / "onnx").exists()


def test_parts_belong_together(tmp_path, capsys):
    for name in ("a", "b"):
        torch.manual_seed(ord(name))
        folder, _ = trained(tmp_path / name)
        (done,) = export(folder, "", [], Options())
    mine, others = done.path.parent, tmp_path / "a" / "onnx"
    joint = mine / "model_joint.onnx"
    kept = joint.read_bytes()
    joint.write_bytes((others / "model_joint.onnx").read_bytes())
    with pytest.raises(InputError, match="model_joint.onnx is not of the same model"):
        Model(done.path)
    joint.write_bytes((mine / "model_prediction.onnx").read_bytes())
    with pytest.raises(InputError, match="model_joint.onnx is not of the same model"):
        Model(done.path)
    joint.unlink()
    with pytest.raises(InputError, match="model_joint.onnx is no file"):
        Model(done.path)
    joint.write_bytes(kept)
    assert main(["transcribe", str(joint), "a.wav"]) == 2
    assert "is a part of a model: give the encoder's" in capsys.readouterr().err
    Model(done.path)


def reshaped(path, **shapes):
    """Let a file tell of other dimensions of inputs or outputs."""
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        for size, dim in zip(
            shapes.get(value.name, ()), value.type.tensor_type.shape.dim
        ):
            dim.dim_value = size
    onnx.save(model, path)


@pytest.mark.parametrize(
    "name, shapes",
    [
        ("prediction", dict(state=(2**20, 2**20, 2**20))),
        ("prediction", dict(state=(0, 1, 12))),
        ("joint", dict(log_probabilities=(1, 9))),
    ],
)
def test_parts_of_other_shapes(tmp_path, monkeypatch, name, shapes):
    folder, _ = trained(tmp_path / "asr")
    (done,) = export(folder, "", [], Options())
    reshaped(folder / "onnx" / f"model_{name}.onnx", **shapes)
    # Whatever ONNX Runtime says of it, it is a sentence.
    with pytest.raises(InputError, match="is not the part|cannot be opened|fails"):
        Model(done.path)(noise(RATE))


def test_other_inputs_and_no_numbers(tmp_path, monkeypatch):
    folder, _ = trained(tmp_path / "asr")
    (done,) = export(folder, "", [], Options())
    shapes = runtime.SHAPES | {"joint": (dict(frames=2, told=2), dict(x=2))}
    with monkeypatch.context() as patched:
        patched.setattr(runtime, "SHAPES", shapes)
        with pytest.raises(InputError, match="joint.onnx is not the part that its"):
            Model(done.path)
    found = Model(done.path)
    nan = [np.full((3, 6), np.nan, np.float32)]
    session = SimpleNamespace(run=lambda *given: nan)
    found._search._parts._sessions["joint"] = session
    with pytest.raises(InputError, match="model_joint.onnx gives no numbers"):
        found(noise(RATE))


def test_nothing_is_overwritten(tmp_path, capsys):
    folder, _ = trained(tmp_path / "asr")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model_joint.onnx").write_text("precious")
    assert main(["export", "--asr_exp", str(folder)]) == 2
    assert "model_joint.onnx exists" in capsys.readouterr().err
    assert [p.name for p in (folder / "onnx").iterdir()] == ["model_joint.onnx"]


def test_nothing_of_this_machine_is_in_a_part(tmp_path):
    folder, _ = trained(tmp_path / "asr")
    export(folder, "", [], Options())
    for name in ("joint", "prediction"):
        path = folder / "onnx" / f"model_{name}.onnx"
        assert b"site-packages" not in path.read_bytes()
        (entry,) = onnx.load(path).metadata_props
        about = json.loads(entry.value)
        assert about["kind"] == name and about["model"] == "asr"


def test_what_is_refused(tmp_path):
    folder, _ = trained(tmp_path / "asr")
    (done,) = export(folder, "", [], Options())
    with pytest.raises(InputError, match="beam_size=2 must be 1: this is no CTC"):
        Model(done.path, beam_size=2)
    with pytest.raises(ConfigError, match="sherpa is for CTC, not for transducer"):
        export(folder, "", [], Options(sherpa=True))


def test_a_model_of_espnet_s(tmp_path):
    conf = {"ctc_weight": 0.0, "report_cer": False, "report_wer": False}
    folder, _ = trained(tmp_path / "asr", model="espnet", model_conf=conf)
    (done,) = export(folder, "", [], Options())
    model, _ = load_model(folder, "")
    speech = noise(4 * RATE)
    numbers = original.greedy(model, torch.from_numpy(speech), "transducer")
    assert Model(done.path).tokens(speech) == [TOKENS[n] for n in numbers] != []
