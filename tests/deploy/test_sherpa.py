"""Folders for sherpa-onnx, opened with it."""

from difflib import SequenceMatcher

import numpy as np
import pytest
import torch
from experiment import AVERAGED, experiment

from espnet_dynsize.bin.main import main
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy.experiment import load_model
from espnet_dynsize.deploy.onnx.export import Options, export
from espnet_dynsize.deploy.onnx.sherpa import tokens_text
from espnet_dynsize.runtime import Model

pytest.importorskip("onnx")
sherpa_onnx = pytest.importorskip("sherpa_onnx", reason="pip install sherpa-onnx")

MELS = 20
WORDS = ["<blank>", "<unk>", "A", "B", "<space>", "<sos/eos>"]
KALDI = dict(frontend="kaldi", frontend_conf=dict(n_mels=MELS), token_list=WORDS)


def trained(folder, input_layer="conv2d", **changes):
    """A random model that says something."""
    conf = dict(input_layer=input_layer, cnn_module_kernel=5)
    folder, model = experiment(folder, conf, **(KALDI | changes))
    model.ctc.ctc_lo.weight.data *= 5
    model.ctc.ctc_lo.bias.data[[0, 1, 5]] -= 2
    torch.save(model.state_dict(), folder / AVERAGED)
    return folder, model


def noise(samples):
    return np.random.default_rng(samples).normal(size=samples).astype(np.float32) / 10


def program(folder, **options):
    return sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(
        model=str(folder / "model.onnx"),
        tokens=str(folder / "tokens.txt"),
        feature_dim=MELS,
        **options,
    )


def hear(recognizer, speeches, rate=16000):
    streams = [recognizer.create_stream() for _ in speeches]
    for stream, speech in zip(streams, speeches):
        stream.accept_waveform(rate, speech)
    recognizer.decode_streams(streams)
    return [(s.result.text.strip(), list(s.result.tokens)) for s in streams]


@torch.no_grad()
def best_tokens(model, speech):
    speech = torch.from_numpy(speech)[None]
    encoded, _ = model.encode(speech, torch.tensor([speech.size(1)]))
    best = torch.unique_consecutive(model.ctc.argmax(encoded)[0]).tolist()
    return [WORDS[b].replace("<space>", " ") for b in best if b]


@pytest.mark.parametrize("quantise", [False, True])
def test_it_hears_the_model_s_tokens(tmp_path, quantise):
    folder, model = trained(tmp_path / "asr")
    options = Options(sherpa=True, quantise=quantise, force=True)
    (done,) = export(folder, "", [], options)
    name = "model_int8_sherpa" if quantise else "model_sherpa"
    assert done.path == folder / "onnx" / name
    speeches = [noise(samples) for samples in (48000, 16001, 1040)]
    own = Model(done.path / "model.onnx")
    recognizer = program(done.path)
    # Each alone, and all in a batch
    heard = [hear(recognizer, [speech])[0] for speech in speeches]
    if not quantise:
        # In integers, a batch has one scale.
        assert heard == hear(recognizer, speeches)
    texts, ours = [text for text, _ in heard], [own(speech) for speech in speeches]
    # In integers, features that differ in their last digits can be other ones.
    alike = [SequenceMatcher(None, *both).ratio() for both in zip(texts, ours)]
    assert min(alike) > 0.8 and (quantise or texts == ours)
    tokens = [said for _, said in heard]
    assert len(tokens[0]) > 10 and " " in tokens[0]
    if not quantise:
        assert tokens == [best_tokens(model, speech) for speech in speeches]


@pytest.mark.parametrize("input_layer", ["separable_conv2d", "vgg"])
def test_other_front_ends(tmp_path, input_layer):
    folder, model = trained(tmp_path / "asr", input_layer)
    (done,) = export(folder, "", [], Options(sherpa=True))
    speeches = [noise(samples) for samples in (48000, 16001, 5000)]
    heard = hear(program(done.path), speeches)
    tokens = [said for _, said in heard]
    assert tokens == [best_tokens(model, speech) for speech in speeches] != [[]] * 3


@pytest.mark.parametrize("input_layer", ["conv2d", "separable_conv2d", "vgg"])
def test_what_is_too_short_ends_no_program(tmp_path, input_layer):
    folder, _ = trained(tmp_path / "asr", input_layer)
    (done,) = export(folder, "", [], Options(sherpa=True))
    recognizer = program(done.path)
    least = Model(done.path / "model.onnx").about["least"]
    for samples in (0, 79, 80, 100, 160 * least - 81):  # less than that many frames
        assert hear(recognizer, [noise(samples)]) == [("", [])]
    long, short = hear(recognizer, [noise(16000), noise(300)])
    assert short == ("", []) and (long[0] or input_layer == "vgg")


def test_members_and_their_errors(tmp_path, capsys):
    folder, _ = trained(tmp_path / "asr")
    given = ["export", "--asr_exp", str(folder), "--format", "sherpa"]
    assert main([*given, "--family"]) == 0
    assert "size3_sherpa: " in capsys.readouterr().out
    names = sorted(path.name for path in (folder / "onnx").iterdir())
    assert names == ["size3_sherpa", "size5_sherpa", "size8_sherpa"]
    model, _ = load_model(folder, "")
    ((_, tokens),) = hear(program(folder / "onnx" / "size3_sherpa"), [noise(32000)])
    with model.activate(3):
        assert tokens == best_tokens(model, noise(32000)) != []
    assert main([*given, "--size", "3"]) == 2
    assert "size3_sherpa exists" in capsys.readouterr().err


def test_a_folder_says_how_it_is_used(tmp_path):
    conf = dict(frontend_conf=dict(fs="8k", n_mels=MELS))
    folder, _ = trained(tmp_path / "asr", **conf)
    (done,) = export(folder, "", [], Options(sherpa=True))
    assert sorted(p.name for p in done.path.iterdir()) == [
        *("README.md", "model.onnx", "tokens.txt")
    ]
    readme = (done.path / "README.md").read_text()
    assert "--sample-rate=8000 --feat-dim=20" in readme
    assert "sample_rate=8000, feature_dim=20" in readme
    speech = noise(16000)
    ((text, _),) = hear(program(done.path, sample_rate=8000), [speech], 8000)
    assert text == Model(done.path / "model.onnx")(speech) != ""


@pytest.mark.parametrize(
    "about, expected",
    [
        (dict(space="<space>"), "<blank> 0\nA 1\n▁ 2\n"),
        (dict(space="▁"), "<blank> 0\nA 1\n<space> 2\n"),
        (dict(space=None), "<blank> 0\n▁A 1\n▁<space> 2\n"),
    ],
    ids=str,
)
def test_tokens(about, expected):
    assert tokens_text(about | dict(tokens=["<blank>", "A", "<space>"])) == expected


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(frontend="default"), "needs a model trained with frontend: kaldi"),
        (dict(token_list=[*WORDS[:-1], "SIL"]), "token=SIL must be without spaces,"),
        (dict(token_list=[*WORDS[:-1], "<eps>"]), "token=<eps> must be without"),
        (dict(token_list=[*WORDS[:-1], " C"]), "token= C must be without"),
        (dict(token_list=[*WORDS[:-1], "▁C"]), "token=▁C must be without"),
        (
            dict(
                token_list=[*WORDS[:-1], "<0xE4>"], token_type="bpe", bpemodel=__file__
            ),
            "token=<0xE4> must be without",
        ),
        (dict(input_layer="conv2d6"), "takes one frame of 4 .this has 6"),
    ],
    ids=str,
)
def test_what_is_refused(tmp_path, changes, message):
    folder, _ = trained(tmp_path / "asr", **changes)
    with pytest.raises(ConfigError, match=message):
        export(folder, "", [], Options(sherpa=True))
    assert not (folder / "onnx").exists()


def test_words_may_be_called_anything(tmp_path):
    words = ["<blank>", "<unk>", "B", "<eps>", "SIL", "<sos/eos>"]
    folder, model = trained(tmp_path / "asr", token_list=words, token_type="word")
    (done,) = export(folder, "", [], Options(sherpa=True))
    ((text, _),) = hear(program(done.path), [noise(32000)])
    assert text == Model(done.path / "model.onnx")(noise(32000))
    assert " " in text and "SIL" in text.split()


def test_samples_are_not_sherpa_s(tmp_path, capsys):
    folder, _ = trained(tmp_path / "asr")
    with pytest.raises(ConfigError, match="--input=samples must be features"):
        export(folder, "", [], Options(audio=True, sherpa=True))
    given = ["--format", "sherpa", "--input", "samples"]
    assert main(["export", "--asr_exp", str(tmp_path), *given]) == 2
    assert "--input=samples must be features" in capsys.readouterr().err
