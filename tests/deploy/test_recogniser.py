import numpy as np
import pytest
import soundfile
import torch
from conftest import TOKENS
from espnet2.bin.asr_inference import Speech2Text
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from experiment import experiment
from scipy.io import wavfile

import espnet_dynsize
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy.recogniser import (
    Recogniser,
    checked_audio,
    least_frames,
    least_samples,
)


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Opens a model with an `input_layer` and other keys of the config."""
    folder = tmp_path_factory.mktemp("models")
    loaded = {}

    def load(input_layer="conv2d", **changes):
        name = f"{input_layer} {changes}"
        if name not in loaded:
            path = folder / f"{len(list(folder.iterdir()))}"
            experiment(path, dict(input_layer=input_layer), **changes)
            loaded[name] = espnet_dynsize.load(path)
        return loaded[name]

    return load


FEATURES = dict(frontend=None, frontend_conf={}, input_size=5)


def noise(samples=8000):
    return 0.1 * np.random.default_rng(0).standard_normal(samples).astype(np.float32)


def text(results):
    return results[0][0]


# -- What is recognised


def test_it_is_espnet_s_own(load):
    recogniser = load()
    assert isinstance(recogniser, Recogniser) and isinstance(recogniser, Speech2Text)
    for speech in (noise(), torch.from_numpy(noise())):
        ((words, tokens, ids, found),) = recogniser(speech)
        ((stock, *parts, stock_found),) = Speech2Text.__call__(recogniser, speech)
        assert words and (words, tokens, ids) == (stock, *parts)
        assert found.score == stock_found.score


def test_a_list_is_a_batch(load):
    batch = [noise(), noise(4000)]
    expected = [text(one) for one in load().batch_decode(batch)]
    assert [text(one) for one in load()(batch)] == expected
    with pytest.raises(ConfigError, match="too short"):
        load()([*batch, noise(10)])


@pytest.mark.parametrize("kind", ["float16", "float64", ">f4", "longdouble"])
def test_floats_of_every_kind(load, kind):
    speech = noise().astype(kind)
    expected = text(load()(speech.astype(np.float32)))
    assert text(load()(speech)) == expected
    assert text(load()(speech[:, None])) == expected
    assert text(load()(np.repeat(speech, 2)[::2])) == expected


@pytest.mark.parametrize("kind", ["PCM_16", "PCM_32"])
def test_integers_are_scaled_as_in_files(tmp_path, kind):
    soundfile.write(tmp_path / "x.wav", noise(), 16000, kind)
    expected, _ = soundfile.read(tmp_path / "x.wav", dtype="float32")
    _, samples = wavfile.read(tmp_path / "x.wav")
    assert samples.dtype.kind == "i"
    np.testing.assert_array_equal(checked_audio(samples).numpy(), expected)
    swapped = samples.astype(samples.dtype.newbyteorder())
    np.testing.assert_array_equal(checked_audio(swapped).numpy(), expected)
    tensor = torch.from_numpy(samples)
    np.testing.assert_array_equal(checked_audio(tensor).numpy(), expected)


def test_eight_bits_are_scaled(tmp_path):
    soundfile.write(tmp_path / "x.wav", noise(), 16000, "PCM_U8")
    expected, _ = soundfile.read(tmp_path / "x.wav", dtype="float32")
    _, samples = wavfile.read(tmp_path / "x.wav")
    assert samples.dtype == np.uint8
    np.testing.assert_array_equal(checked_audio(samples).numpy(), expected)
    signed = torch.tensor([-128, 0, 64], dtype=torch.int8)
    assert checked_audio(signed).tolist() == [-1.0, 0.0, 0.5]


def test_integers_give_the_text_of_floats(load):
    whole = np.round(noise() * 2**15)
    expected = text(load()((whole / 2**15).astype(np.float32)))
    assert text(load()(whole.astype(np.int16))) == expected


@pytest.mark.parametrize("normalize", [None, "utterance_mvn"])
@pytest.mark.parametrize("norm_vars", [False, True])
def test_silence_is_no_nan(load, normalize, norm_vars):
    conf = {"norm_vars": norm_vars} if normalize else {}
    recogniser = load(normalize=normalize, normalize_conf=conf)
    speech = torch.zeros(1, 8000)
    encoded, _ = recogniser.asr_model.encode(speech, torch.tensor([8000]))
    assert torch.isfinite(encoded).all()
    assert isinstance(text(recogniser(np.zeros(8000))), str)


def test_inference_mode_around_anything(tmp_path):
    folder, _ = experiment(tmp_path / "asr", dict(input_layer="conv2d"))
    expected = text(espnet_dynsize.load(folder)(noise()))
    with torch.inference_mode():
        recogniser = espnet_dynsize.load(folder)
        assert text(recogniser(noise())) == expected
    assert text(recogniser(noise())) == expected
    with torch.inference_mode():  # positions are computed anew
        recogniser(noise(40000))
    assert text(recogniser(noise())) == expected
    recogniser(noise(48000))


# -- What is refused


@pytest.mark.parametrize(
    "speech, message",
    [
        (np.zeros((8000, 2)), r"shape \[8000, 2\] must be \[samples\]: one channel"),
        (np.zeros((1, 8000)), r"shape \[1, 8000\] must be \[samples\]"),
        (np.array(1.0), r"shape \[\] must be \[samples\]"),
        (np.zeros(0), "speech is empty"),
        (np.zeros((0, 1)), "speech is empty"),
        (np.zeros(8000, bool), "type bool; it must be floats"),
        (np.zeros(8000, complex), "type complex128; it must be floats"),
        (torch.zeros(8000).to_sparse(), "must be a dense tensor with values in mem"),
        (torch.zeros(8000, device="meta"), "must be a dense tensor with values in"),
        (np.zeros(8000, object), "type object; it must be floats"),
        (np.zeros(8000, np.int64), "type int64; it must be floats .* int16 or int32"),
        (torch.zeros(8000, dtype=torch.uint16), "type uint16; it must be floats"),
        (torch.zeros(8000, dtype=torch.bool), "type bool; it must be floats"),
        (torch.zeros(8000, dtype=torch.cfloat), "type complex64; it must be floats"),
        ("a.wav", "speech is a str; it must be a numpy array or a torch tensor"),
        ([0.1, 0.2], "speech is a float; it must be a numpy array or a torch tensor"),
        (None, "speech is a NoneType"),
    ],
    ids=lambda value: "" if isinstance(value, str) else None,
)
def test_what_is_no_audio(load, speech, message):
    with pytest.raises(ConfigError, match=message):
        load()(speech)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_samples_that_are_no_numbers(load, value, kind):
    speech = noise().astype(kind)
    with np.errstate(over="ignore"):
        speech[[17, 99]] = kind(value)
    with pytest.raises(ConfigError, match="speech has 2 values .* at position 17"):
        load()(speech)


@pytest.mark.parametrize(
    "input_layer, frontend_conf, least",
    [
        # Frames are 10 ms apart. conv2d needs 7, the first in the middle of sample 0.
        ("conv2d", {}, 6 * 160),
        ("vgg", {}, 6 * 160),
        ("separable_conv2d", {}, 6 * 160),
        ("conv2d1", {}, 4 * 160),
        ("conv2d2", {}, 6 * 160),
        ("conv2d6", {}, 10 * 160),
        ("conv2d8", {}, 14 * 160),
        # One frame is enough, but 128 samples are mirrored at each end.
        ("linear", {}, 129),
        ("linear", {"n_fft": 255}, 128),
        ("conv2d", {"n_fft": 255}, 6 * 160 + 1),
        ("conv2d", {"hop_length": 10}, 129),
        ("linear", {"center": False}, 256),
        ("conv2d", {"center": False}, 6 * 160 + 256),
    ],
    ids=str,
)
def test_the_shortest_audio(load, input_layer, frontend_conf, least):
    conf = dict(n_fft=256, hop_length=160, n_mels=20) | frontend_conf
    recogniser = load(input_layer, frontend_conf=conf)
    assert least_samples(recogniser.asr_model) == least
    recogniser(noise(least))
    with pytest.raises((TooShortUttError, RuntimeError)):
        Speech2Text.__call__(recogniser, noise(least - 1))
    message = (
        f"too short: it has {least - 1} samples .* needs at least {least} samples "
        rf"\({least / 16:.4g} ms\)"
    )
    for samples in (noise(least - 1), noise(1), noise(80)):
        with pytest.raises(ConfigError, match="needs at least"):
            recogniser(samples)
    with pytest.raises(ConfigError, match=message):
        recogniser(noise(least - 1))


def test_the_shortest_audio_with_windows_for_a_front_end(load):
    recogniser = load(
        frontend="sliding_window",
        frontend_conf=dict(win_length=400, hop_length=160),
        preencoder="sinc",
    )
    assert least_samples(recogniser.asr_model) == 6 * 160 + 400
    recogniser(noise(1360))
    with pytest.raises(ConfigError, match="it has 1359 samples"):
        recogniser(noise(1359))


def test_the_shortest_audio_with_kaldi_s_features(load):
    recogniser = load(frontend="kaldi", frontend_conf=dict(n_mels=20))
    assert least_samples(recogniser.asr_model) == 6 * 160 + 80
    recogniser(noise(1040))
    with pytest.raises(ConfigError, match="it has 1039 samples"):
        recogniser(noise(1039))


def test_a_front_end_that_is_not_known(load, monkeypatch):
    """What is too short then, the encoder says."""
    monkeypatch.setattr(
        "espnet_dynsize.deploy.recogniser.least_samples", lambda model: 1
    )
    with pytest.raises(ConfigError, match="it gives 3 frames, .* needs at least 7"):
        load()(noise(400))


def test_too_long_at_once(load):
    speech = np.zeros(300 * 16000 + 1, np.float32)
    with pytest.raises(ConfigError) as caught:
        load()(speech)
    assert "at most 4800000 (300 s) are allowed" in str(caught.value)
    assert "recogniser.transcribe(speech, rate)" in str(caught.value)


# -- Audio of any length and rate


def test_transcribe(load, monkeypatch):
    recogniser, heard = load(), []

    def hear(self, speech):
        heard.append(speech)
        return [(f"{len(speech)}", [], [], None)]

    monkeypatch.setattr(Recogniser, "__call__", hear)
    assert recogniser.rate == 16000
    second = np.ones(8000, np.int16) * 2**14
    speech = np.concatenate([second] * 20 + [second * 0] + [second] * 20)
    assert recogniser.transcribe(speech, 8000) == "328000 328000"
    assert recogniser.transcribe(torch.ones(16000, 1), 16000.0) == "16000"
    assert heard[-1].shape == (16000,)
    assert np.abs(heard[0][1000:100000] - 0.5).max() < 0.01


@pytest.mark.parametrize(
    "speech, rate, message",
    [
        (noise(), 0, "sampling rate=0 must be a whole number"),
        (noise(), "16k", "sampling rate=16k must be a whole number"),
        (np.zeros((8000, 2)), 16000, "one channel"),
        (np.full(8000, np.nan), 16000, "has 8000 values"),
        (noise(100), 16000, "too short"),
    ],
)
def test_transcribe_refuses(load, speech, rate, message):
    with pytest.raises(ConfigError, match=message):
        load().transcribe(speech, rate)


# -- Models that take features


def test_features(load):
    recogniser = load("linear", **FEATURES)
    assert recogniser.features == 5 and load().features is None
    features = [noise(100).reshape(20, 5), noise(35).reshape(7, 5)]
    expected = [text(Speech2Text.__call__(recogniser, one)) for one in features]
    assert set("".join(expected)) <= set("".join(TOKENS))
    assert [text(recogniser(one)) for one in features] == expected
    assert [text(one) for one in recogniser(features)] == expected


@pytest.mark.parametrize(
    "speech, message",
    [
        (
            noise(),
            r"shape \[8000\] .* must be float features .*, not audio",
        ),
        (np.zeros((20, 4)), r"shape \[20, 4\] .* must be float features \[frames, 5\]"),
        (np.zeros((20, 5), np.int16), "type int16 must be float features"),
        (np.full((20, 5), np.nan), "has 100 values .* at position 0"),
        (np.zeros((0, 5)), "it has 0 frames, and the model needs at least 1 frame"),
        (np.zeros((30001, 5)), "it has 30001 frames, and at most 30000"),
    ],
    ids=lambda value: "" if isinstance(value, str) else None,
)
def test_what_is_no_features(load, speech, message):
    with pytest.raises(ConfigError, match=message):
        load("linear", **FEATURES)(speech)


def test_the_shortest_features(load):
    recogniser = load("conv2d", **FEATURES | {"input_size": 20})
    assert least_frames(recogniser.asr_model) == 7
    recogniser(np.zeros((7, 20), np.float32))
    with pytest.raises(ConfigError, match="it has 6 frames, .* at least 7 frames"):
        recogniser(np.zeros((6, 20), np.float32))


def test_features_are_not_transcribed(load):
    with pytest.raises(ConfigError, match="takes features .* not audio"):
        load("linear", **FEATURES).transcribe(noise(), 16000)
