import os
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy import audio
from espnet_dynsize.deploy.audio import (
    check_rate,
    pieces,
    read_audio,
    resampled,
    transcribe,
    transcribe_file,
)

RATE = 1000  # of what is cut: a hop is 10 samples, a stretch 200


def noise(samples, channels=2):
    rng = np.random.default_rng(0)
    return 0.1 * rng.standard_normal((samples, channels)).astype(np.float32)


class Heard(list):
    """A recogniser that remembers what it is given, and hears its length."""

    def __call__(self, speech):
        self.append(speech)
        return [(f" {len(speech)} ", [], [], None)]


# -- Reading


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize(
    "name, form",
    [("x.wav", {}), ("x.flac", {}), ("x.ogg", {}), ("x.opus", {"subtype": "OPUS"})],
)
def test_blocks_are_the_file_read_at_once(tmp_path, monkeypatch, channels, name, form):
    form = {"format": "OGG", **form} if form else {}
    soundfile.write(tmp_path / name, noise(120011, channels), 48000, **form)
    expected, _ = soundfile.read(tmp_path / name, dtype="float32", always_2d=True)
    monkeypatch.setattr(audio, "BLOCK_VALUES", 8001)
    samples, rate = read_audio(tmp_path / name)
    assert rate == 48000 and samples.dtype == np.float32
    np.testing.assert_array_equal(samples, expected.mean(axis=1))


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("none.wav", None, "does not exist"),
        ("", None, "is a folder"),
        ("x.wav", b"no audio at all", "cannot be read as audio: "),
        ("x.wav", b"", "cannot be read as audio: "),
        ("x.RAW", bytes(1000), ".raw has no header; make it wav or flac"),
    ],
)
def test_what_is_no_audio_file(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_audio(path)
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)


def test_a_file_that_ends_too_early(tmp_path):
    path = tmp_path / "x.flac"
    soundfile.write(path, noise(50000), 16000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ConfigError, match="x.flac: cannot be read as audio: .*lost"):
        read_audio(path)


def test_a_file_without_samples(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros(0), 16000)
    with pytest.raises(ConfigError, match="x.wav: has no samples"):
        read_audio(tmp_path / "x.wav")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_samples_that_are_no_numbers(tmp_path, monkeypatch, value):
    samples = noise(1000)
    samples[700, 1] = value
    soundfile.write(tmp_path / "x.wav", samples, 16000, "FLOAT")
    monkeypatch.setattr(audio, "BLOCK_VALUES", 200)
    with pytest.raises(ConfigError, match="x.wav: has 1 values .* at position 700"):
        read_audio(tmp_path / "x.wav")


def test_a_rate_of_no_speech(tmp_path):
    soundfile.write(tmp_path / "x.wav", noise(100), 7)
    with pytest.raises(ConfigError, match="x.wav: sampling rate=7 must be a whole"):
        read_audio(tmp_path / "x.wav")
    for rate in (16000, 16000.0, np.int32(8000)):
        check_rate(rate)
    for rate in (0, -1, 999, 16000.5, float("nan"), float("inf"), True, "16k", None):
        with pytest.raises(ConfigError, match="must be a whole number of samples"):
            check_rate(rate)


def test_a_name_that_is_no_text(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.wav")
    soundfile.write(str(tmp_path / "x.wav"), noise(100), 16000)
    (tmp_path / "x.wav").rename(path)
    assert len(read_audio(path)[0]) == 100
    path.write_bytes(b"")
    with pytest.raises(ConfigError) as caught:
        read_audio(path)
    assert "\ufffd.wav: cannot be read" in str(caught.value)


# -- Resampling


@pytest.mark.parametrize("own", [8000, 11025, 22050, 32000, 44100, 48000, 96000])
@pytest.mark.parametrize("rate", [8000, 16000])
def test_usual_rates_are_exact(own, rate):
    samples = noise(1001, 1)[:, 0]
    speech = torch.from_numpy(samples)
    expected = torchaudio.functional.resample(speech, own, rate)
    assert torch.equal(resampled(samples, own, rate), expected)


@pytest.mark.parametrize("own", [1009, 7919, 44099, 999983])
def test_filters_stay_small_for_odd_rates(monkeypatch, own):
    resample, ratios = torchaudio.functional.resample, []

    def spied(speech, *ratio):
        ratios.append(ratio)
        return resample(speech, *ratio)

    monkeypatch.setattr(torchaudio.functional, "resample", spied)
    time = np.arange(own) / own
    speech = resampled(np.sin(2 * np.pi * 100 * time, dtype=np.float32), own, 16000)
    assert len(speech) == pytest.approx(16000, rel=1e-3)
    ((divisor, factor),) = ratios
    assert divisor * factor <= 2e6
    assert factor / divisor == pytest.approx(16000 / own, rel=1e-3)


# -- Cutting


def with_silence(length, *silences):
    samples = np.ones(length, np.float32)
    for first, last in silences:
        samples[first:last] = 0
    return samples


@pytest.mark.parametrize(
    "samples, lengths",
    [
        # Not longer than the longest: never cut
        (with_silence(2000, (900, 1100)), [2000]),
        (with_silence(1), [1]),
        # In the middle of the silence
        (with_silence(3000, (1500, 1800)), [1650, 1350]),
        # The longer one of two
        (with_silence(3000, (1100, 1400), (1500, 1900)), [1700, 1300]),
        # Not where there is no silence of 0.2 s, and not before half of the longest
        (with_silence(3000, (400, 800), (1200, 1300), (1400, 1700)), [1550, 1450]),
        # A second remains: the silence behind it is too late
        (with_silence(2500, (1100, 1300), (1600, 1900)), [1200, 1300]),
        # Nothing to choose from
        (with_silence(2001), [1001, 1000]),
        # Twice
        (with_silence(5000, (1400, 1600), (3000, 3200)), [1500, 1600, 1900]),
    ],
    ids=lambda value: str(value) if isinstance(value, list) else "",
)
def test_cuts_are_in_silences(samples, lengths):
    cut = list(pieces([samples], RATE, longest=2.0))
    assert [len(piece) for piece in cut] == lengths
    np.testing.assert_array_equal(np.concatenate(cut), samples)


def test_what_is_quiet_is_enough():
    samples = np.where(np.arange(3000) % 2, 1.0, -1.0).astype(np.float32)
    samples[1300:1500] *= 0.1
    samples[1700:1900] *= 0.2
    lengths = [len(piece) for piece in pieces([samples], RATE, longest=2.0)]
    assert lengths == [1400, 1600]


def test_parts_are_cut_as_the_whole():
    samples = noise(20000, 1)[:, 0]
    expected = list(pieces([samples], RATE, longest=2.0))
    assert len(expected) > 9
    assert all(1000 <= len(piece) <= 2000 for piece in expected)
    for size in (1, 333, 2500, 19999):
        parts = (samples[i : i + size] for i in range(0, len(samples), size))
        cut = list(pieces(parts, RATE, longest=2.0))
        assert [len(p) for p in cut] == [len(p) for p in expected]
        np.testing.assert_array_equal(np.concatenate(cut), samples)


# -- Transcribing


def test_short_audio_is_heard_as_a_whole():
    samples = noise(48000 * 2, 1)[:, 0]
    heard = Heard()
    assert transcribe(heard, samples, 48000, 16000) == "32000"
    expected = resampled(samples, 48000, 16000).numpy()
    np.testing.assert_array_equal(heard[0], expected)


def test_long_audio_is_heard_in_pieces(tmp_path):
    samples = with_silence(45 * RATE, (20000, 21000))
    heard = Heard()
    assert transcribe(heard, samples, RATE, RATE) == "20500 24500"
    np.testing.assert_array_equal(np.concatenate(heard), samples)
    soundfile.write(tmp_path / "x.wav", samples, RATE, "FLOAT")
    text, seconds = transcribe_file(Heard(), tmp_path / "x.wav", RATE)
    assert text == "20500 24500" and seconds == 45


def test_pieces_in_which_nothing_is_heard():
    samples = with_silence(45 * RATE, (20000, 21000))
    texts = iter([[(None,)], [("  ",)]])
    assert transcribe(lambda speech: next(texts), samples, RATE, RATE) == ""
    # With intermediate CTC losses, ESPnet adds what their layers hear.
    assert transcribe(lambda x: ([("A",)], {}), samples[:100], RATE, RATE) == "A"


def test_a_long_file_is_never_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "BLOCK_VALUES", 2**14)
    length = 20 * 60 * RATE  # 4.8 MB of float32; a piece is 0.12 MB
    with soundfile.SoundFile(tmp_path / "x.wav", "w", RATE, 2) as file:
        for _ in range(20):
            file.write(noise(length // 20))
    tracemalloc.start()
    try:
        _, seconds = transcribe_file(lambda x: [("",)], tmp_path / "x.wav", RATE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seconds == 1200
    assert peak < 2e6
