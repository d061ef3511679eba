"""Models as ONNX files, and what they hear."""

import functools
import json
import sys

import numpy as np
import pytest
import soundfile
import torch
import yaml
from conftest import TOKENS
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import (
    TooShortUttError,
)
from experiment import AVERAGED, HYBRID, experiment

from espnet_dynsize.bin.main import main
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy.experiment import load_model
from espnet_dynsize.deploy.extract import extract
from espnet_dynsize.deploy.onnx import export as exporting
from espnet_dynsize.deploy.onnx import heard, int8
from espnet_dynsize.deploy.onnx.export import Options, export
from espnet_dynsize.deploy.onnx.heard import Heard, Utterance, compare
from espnet_dynsize.runtime import KEY, Model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

RATE = 16_000
CONV2D = dict(input_layer="conv2d", cnn_module_kernel=5)


@torch.no_grad()
def log_probs(model, samples):
    speech = torch.from_numpy(samples)[None]
    encoded, _ = model.encode(speech, torch.tensor([len(samples)]))
    encoded = encoded[0] if isinstance(encoded, tuple) else encoded
    return model.ctc.log_softmax(encoded)[0].numpy()


def noise(samples):
    return np.random.default_rng(0).normal(size=samples).astype(np.float32) / 10


def write_data(folder, texts):
    """A data directory, and its audio of half a second each."""
    folder.mkdir()
    lines = {"wav.scp": [], "text": []}
    for number, text in enumerate(texts):
        path = folder / f"{number}.wav"
        soundfile.write(path, np.roll(noise(RATE // 2), number), RATE)
        lines["wav.scp"].append(f"u{number} {path}")
        lines["text"].append(f"u{number} {text}")
    for name, written in lines.items():
        (folder / name).write_text("\n".join(written) + "\n")
    return folder


@pytest.mark.parametrize("audio", [False, True])
def test_a_file_computes_what_the_model_does(tmp_path, audio):
    folder, model = experiment(tmp_path / "asr", CONV2D)
    (done,) = export(folder, "", [], Options(audio=audio))
    assert done.path == folder / "onnx" / "model.onnx"
    found = Model(done.path)
    # One frame of the encoder, a second, half a minute
    for samples in (960, 961, 1600, RATE, 30 * RATE + 7):
        speech = noise(samples)
        ours, theirs = found.log_probabilities(speech), log_probs(model, speech)
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_what_is_too_short_is_silence(tmp_path):
    folder, _ = experiment(tmp_path / "asr", CONV2D)
    for audio in (False, True):
        (done,) = export(folder, "", [], Options(audio=audio))
        found = Model(done.path)
        for samples in (1, 127, 128, 129, 700, 959):
            assert found.log_probabilities(noise(samples)).shape == (0, len(TOKENS))
            assert found(noise(samples)) == ""
        assert len(found.log_probabilities(noise(960))) == 1
        done.path.unlink()


@pytest.mark.parametrize("audio", [False, True])
def test_padding_in_a_batch_changes_nothing(tmp_path, audio):
    folder, _ = experiment(tmp_path / "asr", CONV2D)
    (done,) = export(folder, "", [], Options(audio=audio))
    session = Model(done.path)._session
    x = np.random.default_rng(0).normal(size=(3, 9000) if audio else (3, 90, 20))
    x, lengths = x.astype(np.float32), np.array(x.shape[1] - np.array([0, 30, 55]))
    batch, frames = session.run(None, {"x": x, "lengths": lengths})
    for i, length in enumerate(lengths):
        one = {"x": x[i : i + 1, :length], "lengths": lengths[i : i + 1]}
        alone, (number,) = session.run(None, one)
        assert frames[i] == number == alone.shape[1]
        np.testing.assert_allclose(batch[i, :number], alone[0], atol=1e-5)


def test_members_of_a_family(tmp_path):
    folder, _ = experiment(tmp_path / "asr", CONV2D)
    assert main(["export", "--asr_exp", str(folder), "--family"]) == 0
    names = sorted(path.name for path in (folder / "onnx").iterdir())
    assert names == ["size3.onnx", "size5.onnx", "size8.onnx"]
    extract(folder, "", [5])
    model, _ = load_model(tmp_path / "asr_size5", "")
    found = Model(folder / "onnx" / "size5.onnx")
    speech = noise(RATE)
    np.testing.assert_allclose(
        found.log_probabilities(speech), log_probs(model, speech), atol=1e-4
    )
    assert found.about["model"] == "asr" and found.about["name"] == "size5"
    # The same, from the cut folder
    (done,) = export(tmp_path / "asr_size5", "", [], Options())
    again = Model(done.path).log_probabilities(speech)
    np.testing.assert_array_equal(again, found.log_probabilities(speech))


def test_any_subnet_and_a_sparse_one(tmp_path):
    sparsity = dict(levels=[0, 0.5], start=0.7, ramp_end=0.8, freeze=0.9)
    folder, model = experiment(
        tmp_path / "asr", CONV2D | dict(sparsity=sparsity, conv_norm="layer_norm")
    )
    model.schedule.plan(20)
    for _ in range(20):
        model.begin_update(0)
    torch.save(model.state_dict(), folder / AVERAGED)
    subnet = dict(num_units=8, kept=[0, 1, 2, 6], head="full")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(subnet))
    arguments = ["export", "--asr_exp", str(folder)]
    assert main([*arguments, "--subnet", str(tmp_path / "mine.yaml")]) == 0
    assert main([*arguments, "--size", "5", "--sparsity", "0.5"]) == 0
    speech = noise(RATE)
    extract(folder, "", ["5_sparsity50"])
    sparse, _ = load_model(tmp_path / "asr_size5_sparsity50", "")
    found = Model(folder / "onnx" / "size5_sparsity50.onnx").log_probabilities(speech)
    np.testing.assert_allclose(found, log_probs(sparse, speech), atol=1e-4)
    model.encoder.keep_units(subnet["kept"])
    found = Model(folder / "onnx" / "mine.onnx").log_probabilities(speech)
    np.testing.assert_allclose(found, log_probs(model, speech), atol=1e-4)


def test_ctc_of_a_hybrid_and_a_model_of_espnet_s(tmp_path):
    conf = {"ctc_weight": 0.3}
    folder, model = experiment(
        tmp_path / "asr", CONV2D, model="espnet", model_conf=conf, **HYBRID
    )
    (done,) = export(folder, "", [], Options())
    speech = noise(RATE)
    found = Model(done.path).log_probabilities(speech)
    np.testing.assert_allclose(found, log_probs(model, speech), atol=1e-4)


def test_text_is_what_the_model_s_best_tokens_say(tmp_path):
    folder, model = experiment(tmp_path / "asr", CONV2D)
    (done,) = export(folder, "", [], Options())
    speech = noise(3 * RATE)
    best = log_probs(model, speech).argmax(-1)
    runs = [b for i, b in enumerate(best) if i == 0 or b != best[i - 1]]
    text = "".join(TOKENS[b] for b in runs if b)
    assert Model(done.path)(speech) == text != ""


@pytest.mark.parametrize(
    "conf",
    [
        dict(n_fft=129, hop_length=64),
        dict(n_fft=129, hop_length=64, center=False),
        dict(n_fft=2048, hop_length=64),
    ],
    ids=str,
)
@pytest.mark.parametrize("audio", [False, True])
def test_the_shortest_audio(tmp_path, conf, audio):
    folder, model = experiment(
        tmp_path / "asr", CONV2D, frontend_conf=dict(n_mels=20, **conf)
    )
    (done,) = export(folder, "", [], Options(audio=audio))
    found, stock = Model(done.path), functools.partial(log_probs, model)
    sizes = [n for n in range(1, 2100) if len(found.log_probabilities(noise(n)))]
    # What is next shorter, ESPnet refuses, and no length in between is left out.
    assert sizes == list(range(sizes[0], 2100))
    ours, theirs = (f(noise(sizes[0])) for f in (found.log_probabilities, stock))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    with pytest.raises((TooShortUttError, RuntimeError)):
        log_probs(model, noise(sizes[0] - 1))


def test_frames_that_are_longer_than_the_noise(tmp_path):
    folder, model = experiment(
        tmp_path / "asr", CONV2D, frontend_conf=dict(n_mels=20, hop_length=8000)
    )
    (done,) = export(folder, "", [], Options())
    speech = noise(9 * RATE)
    ours = Model(done.path).log_probabilities(speech)
    np.testing.assert_allclose(ours, log_probs(model, speech), atol=1e-4)


@pytest.mark.parametrize(
    "changes, told",
    [
        (dict(token_type="char"), dict(space="<space>", pieces=False)),
        (dict(token_type="char", space_symbol="_"), dict(space="_", pieces=False)),
        (dict(token_type="bpe", bpemodel=__file__), dict(space="▁", pieces=True)),
        (dict(token_type="word"), dict(space=None, pieces=False)),
    ],
    ids=str,
)
def test_kinds_of_tokens(tmp_path, changes, told):
    folder, _ = experiment(tmp_path / "asr", CONV2D, **changes)
    (done,) = export(folder, "", [], Options())
    about = Model(done.path).about
    assert {key: about[key] for key in told} == told


# -- 8-bit integers --


def quantised(tmp_path, monkeypatch, moved=True):
    folder = tmp_path / "asr"
    if not folder.exists():
        experiment(folder, CONV2D)
    if not moved:
        monkeypatch.setattr(int8, "before_patches", lambda model: None)
    (done,) = export(folder, "", [], Options(quantise=True, force=True))
    model = onnx.load(done.path)
    kept = done.path.rename(tmp_path / f"{moved}.onnx")
    return Model(kept), model.graph


def test_integers_hear_nearly_the_same(tmp_path, monkeypatch):
    found, graph = quantised(tmp_path, monkeypatch)
    kinds = [node.op_type for node in graph.node]
    # Front-end 2, output 1, and of two blocks: feed-forward 4, attention 3, pointwise 2
    assert kinds.count("MatMulInteger") == 3 + 2 * 9
    assert found.about["quantised"] == "int8"
    model, _ = load_model(tmp_path / "asr", "")
    speech = noise(2 * RATE)
    ours, theirs = found.log_probabilities(speech), log_probs(model, speech)
    error = np.abs(ours - theirs).mean()
    assert 0 < error < 0.05 < theirs.std()


def test_powers_stay_floats(tmp_path):
    folder, model = experiment(tmp_path / "asr", CONV2D)
    (done,) = export(folder, "", [], Options(audio=True, quantise=True, force=True))
    speech = noise(2 * RATE)
    ours = Model(done.path).log_probabilities(speech)
    error = np.abs(ours - log_probs(model, speech)).mean()
    assert 0 < error < 0.05


def test_tokens_in_a_file_and_a_size_in_the_config(tmp_path):
    (tmp_path / "tokens.txt").write_text("\n".join(TOKENS))
    listed = str(tmp_path / "tokens.txt")
    folder, _ = experiment(tmp_path / "asr", {**CONV2D, "subnet": 3})
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(
        yaml.safe_dump(config | dict(token_list=listed))
    )
    (done,) = export(folder, "", [], Options())
    found, speech = Model(done.path), noise(RATE)
    assert found.about["tokens"] == TOKENS
    theirs = log_probs(load_model(folder, "")[0], speech)
    np.testing.assert_allclose(found.log_probabilities(speech), theirs, atol=1e-4)


def test_patches_are_cut_from_what_is_quantised(tmp_path, monkeypatch):
    ours, graph = quantised(tmp_path, monkeypatch)
    theirs, plain = quantised(tmp_path, monkeypatch, moved=False)
    speech = noise(2 * RATE)
    # The scale is that of all frames: of these, patches leave out the last at most.
    np.testing.assert_allclose(
        ours.log_probabilities(speech), theirs.log_probabilities(speech), atol=0.02
    )
    made = {name: node for node in graph.node for name in node.output}
    integers = [n for n in graph.node if n.op_type == "MatMulInteger"]
    (patched,) = [n for n in integers if made[n.input[0]].op_type == "Concat"]
    first = made[made[patched.input[0]].input[0]]
    while first.op_type == "Slice":
        first = made[first.input[0]]
    assert first.op_type == "DynamicQuantizeLinear"
    assert not any(
        made[n.input[0]].op_type == "Concat"
        for n in graph.node
        if n.op_type == "DynamicQuantizeLinear"
    )
    assert len(graph.node) == len(plain.node)


def test_errors_are_counted_and_written_into_the_file(tmp_path, capsys):
    folder, model = experiment(tmp_path / "asr", CONV2D)
    data = write_data(tmp_path / "data", ["A B", "C A B", "B"])
    arguments = ["export", "--asr_exp", str(folder), "--data", str(data)]
    assert main(arguments) == 0
    heard = Model(folder / "onnx" / "model.onnx").about["heard"]
    assert heard["words"] == 6 and heard["before"] == heard["after"] > 0
    out = capsys.readouterr().out
    assert "WER" in out and "(6 words)" in out and "MB" in out


def test_long_utterances_are_cut_and_joined(tmp_path, monkeypatch):
    folder, model = experiment(tmp_path / "asr", CONV2D)
    (done,) = export(folder, "", [], Options())
    found, sizes = Model(done.path), []
    soundfile.write(tmp_path / "long.wav", noise(70 * RATE), RATE, subtype="FLOAT")
    text = found.transcribe(noise(70 * RATE))
    assert text.count(" ") == 2  # three parts
    monkeypatch.setattr(
        heard, "greedy", lambda m, x, kind: sizes.append(len(x)) or [2, 3]
    )
    counts = compare(model, done.path, [Utterance(tmp_path / "long.wav", text)])
    assert counts == (3, 3, 0)  # of its three words, none is AB
    assert len(sizes) == 3 and sum(sizes) == 70 * RATE
    counts = compare(model, done.path, [Utterance(tmp_path / "long.wav", "AB AB AB")])
    assert counts.before == 0


def test_more_errors_are_refused(tmp_path, monkeypatch):
    folder, _ = experiment(tmp_path / "asr", CONV2D)
    data = [Utterance(tmp_path / "a.wav", "A")]
    heard = Heard(words=1000, before=100, after=104)
    monkeypatch.setattr(exporting, "compare", lambda *arguments: heard)
    options = Options(quantise=True, data=data)
    with pytest.raises(ConfigError, match="WER 10.00 % before, 10.40 % after .*3 %"):
        export(folder, "", [], options)
    assert not (folder / "onnx").exists()
    export(folder, "", [], options._replace(most=0.04))
    (folder / "onnx" / "model_int8.onnx").unlink()
    (done,) = export(folder, "", [], options._replace(force=True))
    assert done.heard == heard


# -- what is refused --


def refused(capsys, *arguments):
    assert main(["export", *map(str, arguments)]) == 2
    lines = capsys.readouterr().err.splitlines()
    return [line for line in lines if line.startswith("espnet-dynsize: error:")][0]


def test_bad_input(tmp_path, capsys):
    folder, _ = experiment(tmp_path / "asr", CONV2D)
    given = ("--asr_exp", folder)
    data = write_data(tmp_path / "data", ["A"])
    assert "give --data" in refused(capsys, *given, "--quantize", "int8")
    for most in ("nan", "-1"):
        assert "--most=" in refused(capsys, *given, f"--most={most}")
    assert "exclude another" in refused(capsys, *given, "--family", "--size", "3")
    assert "must be one of" in refused(capsys, *given, "--size", "4")
    (tmp_path / "empty").mkdir()
    assert "wav.scp" in refused(capsys, *given, "--data", tmp_path / "empty")
    (data / "segments").write_text("a b 0 1\n")
    assert "segments" in refused(capsys, *given, "--data", data)
    (data / "segments").unlink()
    (data / "wav.scp").write_text("u0 cat a.wav |\n")
    assert "not a command" in refused(capsys, *given, "--data", data)
    (data / "wav.scp").write_text("u0 a.wav\nu1 a.wav\n")
    assert "u1 is in wav.scp, but not in text" in refused(
        capsys, *given, "--data", data
    )
    (data / "wav.scp").write_text("")
    assert "u0 is in text, but not in wav.scp" in refused(
        capsys, *given, "--data", data
    )
    (data / "wav.scp").write_text("u0 a.wav\nu0 b.wav\n")
    assert "wav.scp: u0 has two lines" in refused(capsys, *given, "--data", data)
    soundfile.write(data / "nan.wav", np.full(RATE, np.nan, np.float32), RATE, "FLOAT")
    (data / "wav.scp").write_text(f"u0 {data}/nan.wav\n")
    assert "nan.wav: a sample" in refused(capsys, *given, "--data", data)
    (data / "wav.scp").write_text("u0 nowhere.wav\n")
    assert "nowhere.wav: is no file" in refused(capsys, *given, "--data", data)
    subnet = yaml.safe_dump(dict(num_units=8, kept=[0, 1], head="full"))
    for name in ("size3.yaml", "model.yaml", "a b.yaml"):
        (tmp_path / name).write_text(subnet)
        said = refused(capsys, *given, "--subnet", tmp_path / name)
        assert f"--subnet={name} must" in said and "named otherwise" in said
    assert not (folder / "onnx").exists()
    export(folder, "", [], Options())
    assert "exists" in refused(capsys, *given)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(frontend=None, frontend_conf={}, input_size=20), "frontend"),
        (dict(token_type="phn"), "token_type"),
        (dict(frontend="sliding_window", frontend_conf={}), "frontend"),
    ],
    ids=str,
)
def test_models_that_are_refused(tmp_path, changes, message):
    folder, _ = experiment(tmp_path / "asr", CONV2D, **changes)
    with pytest.raises(ConfigError, match=message):
        export(folder, "", [], Options())
    assert not any(tmp_path.rglob("*.onnx*"))


def test_a_cut_model_has_no_members(tmp_path, capsys):
    folder, _ = experiment(tmp_path / "asr", CONV2D)
    extract(folder, "", [3])
    given = ("--asr_exp", tmp_path / "asr_size3", "--size", "3")
    assert "not a supernet" in refused(capsys, *given)


def test_a_file_that_computes_something_else_is_not_kept(tmp_path, monkeypatch):
    folder, _ = experiment(tmp_path / "asr", CONV2D)
    monkeypatch.setattr(exporting, "TOLERANCE", 0.0)
    with pytest.raises(ConfigError, match="something else"):
        export(folder, "", [], Options())
    assert not (folder / "onnx").exists()


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(
        ConfigError, match=r"onnx is not installed: pip install '.*expo"
    ):
        export(tmp_path, "", [], Options())


def test_no_path_of_this_machine_is_in_a_file(tmp_path):
    folder, _ = experiment(tmp_path / "asr", CONV2D)
    (done,) = export(folder, "", [], Options())
    content = done.path.read_bytes()
    for word in (b"/tmp", b"site-packages", b".py"):
        assert word not in content
    (entry,) = onnx.load(done.path).metadata_props
    assert entry.key == KEY and json.loads(entry.value)["rate"] == RATE
