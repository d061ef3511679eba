"""Speech that is recognised while it is spoken."""

import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.bin.asr_inference_streaming import Speech2TextStreaming
from espnet2.text.build_tokenizer import build_tokenizer
from experiment import AVERAGED, HYBRID, LM_MODEL, STREAMING, experiment, language_model
from soundfile import write
from speech import in_parts, noise

import espnet_dynsize
from espnet_dynsize.bin.main import main
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy.latency import listen, note, word_ends
from espnet_dynsize.deploy.online import OnlineFeatures


def streaming_experiment(folder, **changes):
    changes = dict(encoder_conf=STREAMING, normalize=None, **changes)
    changes["encoder"] = "dynsize_contextual_block_conformer"
    experiment(folder, **changes)
    states = torch.load(folder / AVERAGED)
    # Models begin with blanks; this one is to say something.
    for name, value in states.items():
        if name.endswith("bias"):
            value.zero_()
    torch.save(states, folder / AVERAGED)
    return folder


@pytest.fixture(scope="module")
def ctc(tmp_path_factory):
    torch.manual_seed(3)
    return streaming_experiment(tmp_path_factory.mktemp("ctc") / "asr")


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory):
    conf = {"ctc_weight": 0.5, "sizes": [3, 5, 8]}
    folder = tmp_path_factory.mktemp("hybrid") / "asr"
    return streaming_experiment(folder, model_conf=conf, **HYBRID)


# -- features --


@pytest.mark.parametrize(
    "conf",
    [
        dict(n_fft=512, hop_length=128),
        dict(n_fft=512, win_length=400, hop_length=160),
        dict(n_fft=256, hop_length=200),
        dict(n_fft=255, win_length=100, hop_length=33),
        dict(n_fft=1024, win_length=400, hop_length=160),
        dict(n_fft=64, hop_length=160),
    ],
    ids=str,
)
@pytest.mark.parametrize("samples", [5_000, 4_999, 600])
def test_features_of_parts_are_those_of_the_whole(conf, samples):
    frontend = DefaultFrontend(n_mels=12, **conf)
    model = torch.nn.Module()
    model.frontend, model.normalize = frontend, None
    model.weight = torch.nn.Parameter(torch.zeros(1))
    model._extract_feats = frontend
    audio = torch.randn(samples)
    whole, lengths = frontend(audio[None], torch.tensor([samples]))
    for part in (1, 37, 160, 400, 1_000, samples):
        if samples // part > 200:
            continue
        features, found = OnlineFeatures(model), []
        for piece in audio.split(part):
            found.append(features.add(piece, False))
        found.append(features.add(torch.empty(0), True))
        found = torch.cat(found, dim=1)
        assert features.done == int(lengths)
        torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-5)


# -- recognisers --


def best_path(recogniser, audio):
    """The text of the whole utterance, by the best token of every frame."""
    model = recogniser.asr_model
    encoded, _ = model.encode(torch.from_numpy(audio)[None], torch.tensor([len(audio)]))
    best = torch.unique_consecutive(model.ctc.argmax(encoded)[0]).tolist()
    tokens = [t for t in best if t not in (model.blank_id, model.eos)]
    return recogniser.tokenizer.tokens2text(recogniser.converter.ids2tokens(tokens))


@pytest.mark.parametrize("size", [3, 5, 8, None])
def test_parts_of_any_length_are_heard_as_the_whole(ctc, size):
    recogniser = espnet_dynsize.load(ctc, size, streaming=True)
    audio = noise(2.3)
    expected = best_path(recogniser, audio)
    assert len(expected) > 5
    for samples in (100, 1_111, 9_000, len(audio)):
        # One after another: nothing is left of the one before.
        text, heard = in_parts(recogniser, audio, samples)
        assert text == expected
        assert all(expected.startswith(partial) for partial in heard)
        assert heard[0] == "" or samples > 4_000
    assert recogniser.text == expected
    recogniser.reset()
    assert recogniser.text == ""


def test_nothing_of_an_utterance_is_in_the_next(ctc, hybrid):
    for folder in (ctc, hybrid):
        recogniser = espnet_dynsize.load(folder, streaming=True)
        first, _ = in_parts(recogniser, noise(1.5), 4_000)
        assert first or folder is hybrid
        assert recogniser.accept(noise(0.01)) == ""
        assert recogniser.finish() == "" and recogniser.finish() == ""
        second, _ = in_parts(recogniser, noise(2.0)[16_000:], 4_000)
        fresh = espnet_dynsize.load(folder, streaming=True)
        assert second == in_parts(fresh, noise(2.0)[16_000:], 4_000)[0]
        assert second != first or folder is hybrid


def test_nothing_is_left_of_an_utterance_that_failed(ctc, monkeypatch):
    recogniser = espnet_dynsize.load(ctc, streaming=True)
    expected = best_path(recogniser, noise(1.0))
    recogniser.accept(noise(0.7))
    with monkeypatch.context() as patch:
        patch.setattr(recogniser, "_search", lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            recogniser.accept(noise(0.7))
    assert in_parts(recogniser, noise(1.0), 4_000)[0] == expected


def test_a_language_model_and_a_penalty_are_not_left_out(ctc, tmp_path):
    lm = language_model(tmp_path / "lm")
    options = dict(lm_train_config=lm / "config.yaml", lm_file=lm / LM_MODEL)
    for more in (options, {"penalty": 2.0}, {"minlenratio": 0.5}):
        recogniser = espnet_dynsize.load(ctc, streaming=True, **more)
        assert not recogniser._greedy
        assert in_parts(recogniser, noise(1.0), 8_000)[0]


def test_a_part_without_samples(ctc):
    recogniser = espnet_dynsize.load(ctc, streaming=True)
    recogniser.accept(noise(1.0))
    text = recogniser.text
    assert text and recogniser.accept(np.empty(0, np.float32)) == text


@pytest.mark.parametrize("beam_size", [1, 3])
def test_the_search_is_that_of_espnet_s_script(hybrid, beam_size):
    audio = noise(2.3)
    recogniser = espnet_dynsize.load(hybrid, streaming=True, beam_size=beam_size)
    options = dict(asr_train_config=hybrid / "config.yaml", beam_size=beam_size)
    script = Speech2TextStreaming(asr_model_file=hybrid / AVERAGED, **options)
    for key in ("block_size", "hop_size", "look_ahead"):
        setattr(script.beam_search, key, STREAMING[key])
    for samples in (4_000, 9_000):
        for begin in range(0, len(audio) - samples, samples):
            script(audio[begin : begin + samples], is_final=False)
        ((expected, *_), *_) = script(audio[begin + samples :], is_final=True)
        text, _ = in_parts(recogniser, audio, samples)
        assert text == expected


def test_two_streams_at_once(ctc):
    first, second = (espnet_dynsize.load(ctc, streaming=True) for _ in range(2))
    audio = noise(2.0)
    expected = best_path(first, audio), best_path(first, audio[8_000:])
    for begin in range(0, 32_000, 4_000):
        first.accept(audio[begin : begin + 4_000])
        if begin >= 8_000:
            second.accept(audio[begin : begin + 4_000])
    assert (first.finish(), second.finish()) == expected


@pytest.mark.parametrize("seconds", [1 / 16_000, 0.02, 0.04])
def test_too_little_is_silence(ctc, hybrid, seconds):
    for folder in (ctc, hybrid):
        recogniser = espnet_dynsize.load(folder, streaming=True)
        assert in_parts(recogniser, noise(seconds), 200)[0] == ""
        assert recogniser.finish() == ""


def test_silence_and_a_long_stream(ctc):
    recogniser = espnet_dynsize.load(ctc, 3, streaming=True)
    for audio in (np.zeros(16_000, np.float32), noise(60)):
        assert in_parts(recogniser, audio, 16_000)[0] == best_path(recogniser, audio)


def test_integers_are_scaled(ctc):
    recogniser = espnet_dynsize.load(ctc, streaming=True)
    audio = (noise(1.0) * 2_000).astype(np.int16)
    text, _ = in_parts(recogniser, audio, 5_000)
    assert text == best_path(recogniser, audio.astype(np.float32) / 2**15)


def test_the_encoder_waits_for_hop_and_look_ahead(ctc):
    recogniser = espnet_dynsize.load(ctc, streaming=True)
    assert recogniser.delay == pytest.approx((4 + 2) * 4 * 160 / 16_000)


def test_what_is_refused(ctc, tmp_path):
    recogniser = espnet_dynsize.load(ctc, streaming=True)
    with pytest.raises(ConfigError, match="sampling rate=8000 must be 16000, the mod"):
        recogniser.accept(noise(0.1), 8_000)
    with pytest.raises(ConfigError, match="speech has 1 values that are not finite"):
        recogniser.accept(np.array([np.nan], np.float32))
    with pytest.raises(ConfigError, match="nosuch=1 must be left out: load has no"):
        espnet_dynsize.load(ctc, streaming=True, nosuch=1)
    for key in ("batch_size", "nbest"):
        with pytest.raises(ConfigError, match=f"{key}=1 must be left out with stream"):
            espnet_dynsize.load(ctc, streaming=True, **{key: 1})
    with pytest.raises(ConfigError, match="maxlenratio=-3 must be at least 0: how lo"):
        espnet_dynsize.load(ctc, streaming=True, maxlenratio=-3)
    with pytest.raises(ConfigError, match="call accept and finish of a recogniser"):
        recogniser(noise(1.0))
    with pytest.raises(ConfigError, match="has no samples"):
        listen(recogniser, [])
    with pytest.raises(ConfigError, match="streaming=1 must be"):
        espnet_dynsize.load(ctc, streaming=1)
    whole, _ = experiment(tmp_path / "asr")
    with pytest.raises(ConfigError, match="encoder=dynsize_conformer must be one that"):
        espnet_dynsize.load(whole, streaming=True)


# -- latency --


def test_words_appear_when_they_are_there_for_good():
    known = []
    for seconds, text, expected in (
        (0.4, "A", [0.4]),
        (0.6, "A C", [0.4, 0.6]),
        (0.8, "A B", [0.4, 0.8]),
        (1.0, "B", [1.0]),
        (1.2, "A B C", [1.2, 1.2, 1.2]),
        (1.4, "A B D", [1.2, 1.2, 1.4]),
        (1.6, "", []),
    ):
        note(known, text, seconds)
        assert [since for _, since in known] == expected
        assert [word for word, _ in known] == text.split()


def test_where_words_end():
    """A model that says A at frames 1 and 2, a space, and B twice."""
    path = [0, 1, 1, 2, 3, 0, 3, 0]
    frames = torch.nn.functional.one_hot(torch.tensor([path]), 4) * 10.0
    known = ["<blank>", "A", "<space>", "B"]
    recogniser = SimpleNamespace(
        rate=100,
        frame_seconds=0.25,
        join=build_tokenizer("char").tokens2text,
        converter=SimpleNamespace(tokens2ids=lambda t: [known.index(x) for x in t]),
        blank=0,
        log_probs=lambda samples: frames.log_softmax(-1),
    )
    audio, tokens = np.zeros(200, np.float32), ["A", "<space>", "B", "B"]
    assert word_ends(recogniser, audio, tokens) == [0.75, 1.75]
    assert word_ends(recogniser, audio, tokens * 2) is None  # too many for 8 frames
    assert word_ends(recogniser, audio, []) is None
    recogniser.log_probs = lambda samples: None
    assert word_ends(recogniser, audio, tokens) is None


def test_listening_measures(ctc):
    recogniser = espnet_dynsize.load(ctc, streaming=True)
    audio, shown = noise(2.0), []
    chunks = [audio[i : i + 3_200] for i in range(0, len(audio), 3_200)]
    text, latency = listen(recogniser, chunks, shown.append)
    assert text == best_path(recogniser, audio)
    assert 0 < latency.median <= latency.percentile and latency.total > 0
    assert [heard.seconds for heard in shown] == sorted({h.seconds for h in shown})
    assert all(a.text != b.text for a, b in zip(shown, shown[1:]))
    assert latency.words is not None


class _Slow(io.BytesIO):
    """Bytes of which a few come at a time, and at last Ctrl-C."""

    def read(self, size):
        data = super().read(min(size, 1_001))
        if not data:
            raise KeyboardInterrupt
        return data


def test_the_command(ctc, tmp_path, capsys, monkeypatch):
    audio = noise(1.0) / 10
    samples = (audio * 2**15).astype("<i2")
    write(tmp_path / "a.wav", samples, 16_000)
    monkeypatch.setattr(
        sys, "stdin", SimpleNamespace(buffer=_Slow(samples), isatty=lambda: False)
    )
    options = ["transcribe", str(ctc), "--streaming", "--size", "3"]
    assert main([*options, str(tmp_path / "a.wav"), "-"]) == 0
    out, err = capsys.readouterr()
    lines = [line.split("\t") for line in out.splitlines()]
    recogniser = espnet_dynsize.load(ctc, 3)
    expected = best_path(recogniser, samples.astype(np.float32) / 2**15)
    assert [line[1] for line in lines] == [expected] * 2
    assert lines[1][0] == "-" and lines[0][2] == "waits 0.24 s"
    assert err.count(" s\t") >= 2


@pytest.mark.parametrize(
    "more, given, message",
    [
        (
            ["--streaming", "--chunk", "0", "-"],
            b"",
            "--chunk=0.0 must be above 0",
        ),
        (
            ["--streaming", "--chunk", "inf", "-"],
            b"",
            "--chunk=inf must be above 0",
        ),
        (["--chunk", "1", "a.wav"], b"", "--chunk=1.0 must be left out without --stre"),
        (["-"], b"", "audio=- must be with --streaming, or a file"),
        (["--streaming", "-", "-"], b"", "audio=- must be given once"),
        (
            ["--streaming", "-"],
            None,
            "audio=- must be given with samples on",
        ),
        (["--streaming", "-"], b"", "-: has no samples"),
        (["--streaming", "-"], b"RIFF1234", "-: has a header: give samples alone"),
    ],
)
def test_what_the_command_refuses(ctc, capsys, monkeypatch, more, given, message):
    if given is None:
        monkeypatch.setattr(sys, "stdin", None)
    else:
        stdin = SimpleNamespace(buffer=io.BytesIO(given), isatty=lambda: False)
        monkeypatch.setattr(sys, "stdin", stdin)
    assert main(["transcribe", str(ctc), *more]) == 2
    assert message in capsys.readouterr().err
