"""The runtime: one file that needs neither ESPnet nor PyTorch."""

import itertools
import json
import shutil
import subprocess
import sys
from collections import defaultdict

import numpy as np
import pytest
import soundfile
import torch
from conftest import TOKENS
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.text.build_tokenizer import build_tokenizer
from experiment import experiment

import espnet_dynsize
from espnet_dynsize import runtime
from espnet_dynsize.bin.main import main
from espnet_dynsize.deploy.onnx.export import Options, export
from espnet_dynsize.deploy.twin.features import twin_features
from espnet_dynsize.encoder.kaldi import KaldiFrontend
from espnet_dynsize.runtime import Features, InputError, Model, collapsed

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

RATE = 16_000
BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchaudio", "espnet2", "yaml"):
            raise ImportError(name)
sys.meta_path.insert(0, Block())
"""


def noise(samples):
    return np.random.default_rng(0).normal(size=samples).astype(np.float32) / 10


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    torch.manual_seed(0)
    exp, _ = experiment(folder / "asr", dict(input_layer="conv2d"))
    (done,) = export(exp, "", [], Options())
    return done.path


@pytest.fixture
def wav(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(RATE), RATE)
    return path


def changed(exported, path, change):
    """A copy of the model with other metadata."""
    model = onnx.load(exported)
    (entry,) = model.metadata_props
    about = json.loads(entry.value)
    entry.value = change(about) or json.dumps(about)
    onnx.save(model, path)
    return path


# -- alone --


def test_the_file_alone_hears_what_the_package_does(exported, wav, tmp_path):
    copy = shutil.copy(runtime.__file__, tmp_path / "alone.py")
    code = f"{BLOCK}\nimport runpy\nrunpy.run_path({str(copy)!r}, run_name='__main__')"
    command = [sys.executable, "-I", "-c", code, str(exported), str(wav)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    name, text, seconds, factor = done.stdout.strip("\n").split("\t")
    assert name == str(wav) and seconds.endswith(" s") and factor.startswith("RTF ")
    heard, _ = soundfile.read(wav, dtype="float32")
    assert text == Model(exported)(heard)


def test_transcribe_needs_no_pytorch(exported, wav):
    code = f"{BLOCK}\nfrom espnet_dynsize.bin.main import main\nsys.exit(main())"
    command = [sys.executable, "-c", code, "transcribe", str(exported), str(wav)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{wav}\t")


def test_load(exported):
    found = espnet_dynsize.load(exported, threads=2)
    assert found.rate == RATE and found.about["kind"] == "ctc"
    with pytest.raises(ValueError, match="size=16 must be left out"):
        espnet_dynsize.load(exported, 16)
    with pytest.raises(ValueError, match="nbest=4 must be left out"):
        espnet_dynsize.load(exported, nbest=4)


# -- what it computes --


def assert_same_features(stock, lengths):
    features = Features(json.loads(json.dumps(twin_features(stock).about)))
    assert features.is_whole
    for samples in lengths:
        speech = noise(samples)
        theirs, _ = stock(torch.from_numpy(speech)[None], torch.tensor([samples]))
        ours = features(speech)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs[0].numpy(), atol=2e-4)


@pytest.mark.parametrize(
    "conf",
    [
        {},
        dict(n_fft=256, win_length=200, hop_length=80, normalized=True),
        dict(n_fft=400, hop_length=100, window="hamming", fmin=80, fmax=3800, htk=True),
        dict(n_fft=128, hop_length=64, window=None, center=False, fs="8k"),
    ],
    ids=str,
)
def test_features_are_espnet_s(conf):
    assert_same_features(DefaultFrontend(n_mels=20, **conf), (600, 4000, 4001))


@pytest.mark.parametrize("rate", [8000, 11025, 16000])
def test_features_are_kaldi_s(rate):
    lengths = (1, 40, 80, 90, 333, 600, 4000, 4001)
    assert_same_features(KaldiFrontend(rate, 20), lengths)


@pytest.mark.parametrize(
    "best, tokens",
    [
        ([], []),
        ([0, 0], []),
        ([2, 2, 0, 2, 3, 3], [2, 2, 3]),
        ([1, 0, 0, 1], [1, 1]),
        ([4], [4]),
    ],
)
def test_runs_of_tokens(best, tokens):
    assert collapsed(np.array(best, np.int64)) == tokens


def most_probable(log_probabilities):
    """Tokens of the most probable text, by all alignments there are."""
    sums = defaultdict(float)
    frames, tokens = log_probabilities.shape
    for path in itertools.product(range(tokens), repeat=frames):
        text = tuple(collapsed(np.array(path)))
        sums[text] += np.exp(sum(row[i] for row, i in zip(log_probabilities, path)))
    return list(max(sums, key=sums.get))


def test_a_beam_finds_the_most_probable_text():
    pytest.importorskip("flashlight.lib.text", reason="pip install flashlight-text")
    beam, others = runtime.Beam(50, 3), 0
    # The best path is blank, the best text is not.
    known = np.log([[0.6, 0.4, 1e-9], [0.6, 0.4, 1e-9]])
    assert collapsed(known.argmax(1)) == [] and beam(known) == [1]
    for seed in range(20):
        scores = np.random.default_rng(seed).normal(size=(5, 3)).astype(np.float32)
        scores -= np.log(np.exp(scores).sum(1, keepdims=True))
        assert beam(scores) == most_probable(scores)
        others += collapsed(scores.argmax(1)) != beam(scores)
    assert others > 5 and beam(np.zeros((0, 3))) == []


def test_texts_of_a_beam(exported, wav, capsys):
    pytest.importorskip("flashlight.lib.text", reason="pip install flashlight-text")
    speech, _ = soundfile.read(wav, dtype="float32")
    found = Model(exported, beam_size=10)
    numbers = runtime.Beam(10, len(TOKENS))(found.log_probabilities(speech))
    assert found.tokens(speech) == [TOKENS[number] for number in numbers]
    assert main(["transcribe", str(exported), str(wav), "--beam_size", "10"]) == 0
    assert capsys.readouterr().out.split("\t")[1] == found(speech)
    assert espnet_dynsize.load(exported, beam_size=10)(speech) == found(speech)


@pytest.mark.parametrize("size", [0, 1001, 2.0, True])
def test_bad_beams(exported, size):
    with pytest.raises(InputError, match=f"beam_size={size} must be from 1 to 1000"):
        Model(exported, beam_size=size)


def test_a_beam_without_flashlight(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "flashlight.lib.text", None)
    with pytest.raises(InputError, match="beam_size=2 needs flashlight-text: pip in"):
        Model(exported, beam_size=2)


@pytest.mark.parametrize(
    "kind, tokens, space",
    [
        ("char", ["A", "<space>", "B", "<unk>"], "<space>"),
        ("word", ["A", "BC", "<unk>"], None),
    ],
)
def test_text_is_as_espnet_s_tokenizers_make_it(exported, kind, tokens, space):
    found = Model(exported)
    found.about |= dict(space=space, pieces=False)
    theirs = build_tokenizer(token_type=kind).tokens2text(tokens)
    assert found.text(tokens) == theirs


def test_text_of_pieces(exported):
    found = Model(exported)
    found.about |= dict(space="▁", pieces=True)
    assert found.text(["▁HE", "LLO", "▁", "A", "<unk>"]) == "HELLO A ⁇"
    assert found.text(["▁", "<0xE4>", "<0xBD>", "<0xA0>", "▁B", "<0xE4>"]) == "你 B�"


# -- bad input --


def test_bad_samples(exported):
    found = Model(exported)
    for bad in (noise(100).reshape(10, 10), np.zeros(9, np.int16), np.zeros((), float)):
        with pytest.raises(InputError, match=r"must be \[N\], floats"):
            found(bad)
    for value in (np.nan, np.inf, 1e20):
        with pytest.raises(InputError, match="finite"):
            found(np.full(2000, value))
    with pytest.raises(InputError, match="301 s at once are too long: at most 300 s"):
        found(np.zeros(301 * RATE))
    assert found.transcribe(np.zeros(0)) == found(np.zeros(0)) == ""


@pytest.mark.parametrize("threads", [0, -1, 257, 1.0, True])
def test_bad_numbers_of_threads(exported, threads):
    with pytest.raises(InputError, match=f"threads={threads} must be from 1 to 256"):
        Model(exported, threads)


def test_bad_audio_files(exported, wav, tmp_path, capsys):
    soundfile.write(tmp_path / "8k.wav", noise(800), 8000)
    soundfile.write(tmp_path / "empty.wav", noise(0), RATE)
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "a.raw").write_bytes(bytes(100))
    names = ["8k.wav", "empty.wav", "text.wav", "a.raw", "nowhere.wav", "", "a" * 300]
    paths = [str(tmp_path / name) for name in names]
    assert main(["transcribe", str(exported), *paths, str(wav)]) == 2
    out, err = capsys.readouterr()
    reasons = ["8000 samples a second; the model takes 16000", "no samples"]
    reasons += [
        "cannot be read",
        "cannot be read",
        "is no file",
        "is no file",
        "is no file",
    ]
    lines = err.splitlines()
    assert len(lines) == len(names) and out.startswith(str(wav))
    for line, path, reason in zip(lines, paths, reasons):
        assert line.startswith(f"{path}: ") and reason in line


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: "no json", "cannot be read"),
        (lambda a: "[]", "cannot be read"),
        (lambda a: a.pop("version") and None, "cannot be read"),
        (lambda a: a.update(version=1), "version 1 of the metadata, this program 2"),
        (lambda a: a.update(tokens=TOKENS[:-1]), "not the model"),
        (lambda a: a.update(tokens=[0] * len(TOKENS)), "not the model"),
        (lambda a: a.update(rate=0), "not the model"),
        (lambda a: a.update(least="1"), "not the model"),
        (lambda a: a.update(input="audio"), "not the model"),
        (lambda a: a.update(space=1), "not the model"),
        (lambda a: a.pop("features") and None, "cannot be read"),
        (lambda a: a["features"].update(hop=0), "not the model"),
        (lambda a: a["features"].update(kind="mfcc"), "not the model"),
        (lambda a: a["features"].update(kind="kaldi", hop=257), "not the model"),
        (lambda a: a["features"].update(hop=10**30), "not the model"),
        (lambda a: a.update(least=10**9), "not the model"),
        (lambda a: a.update(input="samples"), "not the model"),
        (lambda a: a.update(tokens=dict.fromkeys(a["tokens"])), "not the model"),
        (lambda a: "[" * 200_000, "cannot be read"),
        (lambda a: a.update(version="2\n\x1b[2J"), r"version '2.n.x1b. of"),
        (lambda a: a["features"]["mel"].update(shape=[2**40, 2**40]), "cannot be read"),
        (lambda a: a["features"]["mel"].update(shape=[3, 3]), "not the model"),
        (lambda a: a["features"]["mel"].update(data="AAAA"), "cannot be read"),
        (lambda a: a["features"]["mel"].update(data="é"), "cannot be read"),
    ],
)
def test_metadata_that_do_not_fit(exported, tmp_path, change, message):
    path = changed(exported, tmp_path / "m.onnx", change)
    with pytest.raises(InputError, match=message):
        Model(path)


def test_files_of_others(exported, tmp_path, capsys):
    model = onnx.load(exported)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    content = exported.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name, message in (
        ("foreign", "was not written by"),
        ("cut", "cannot be opened"),
        ("text", "cannot be opened"),
        ("empty", "cannot be opened"),
        ("nowhere", "is no file"),
    ):
        path = tmp_path / f"{name}.onnx"
        assert main(["transcribe", str(path), "a.wav"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and message in line and str(path) in line


@pytest.mark.parametrize(
    "option",
    [
        *(["--size", "3"], ["--streaming"], ["--chunk", "1"]),
        *(["--context", "whole"], ["--device", "cuda"], ["--model_file", "a.pth"]),
    ],
    ids=str,
)
def test_options_that_a_file_has_not(exported, capsys, option):
    assert main(["transcribe", str(exported), "a.wav", *option]) == 2
    assert f"{option[0]}=" in capsys.readouterr().err
