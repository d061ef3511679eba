import re

import numpy as np
import pytest
import soundfile
from experiment import experiment

from espnet_dynsize.bin.main import main
from espnet_dynsize.deploy.audio import read_audio, transcribe


def tone(rate, channels=1):
    time = np.arange(rate) / rate
    wave = 0.3 * np.sin(2 * np.pi * 440 * time)
    return np.stack([wave] * channels, axis=1)


def test_any_file_in_any_form(tmp_path, capsys):
    folder, _ = experiment(tmp_path / "asr")
    files = [tmp_path / "a.wav", tmp_path / "b.flac", tmp_path / "c d.wav"]
    soundfile.write(files[0], tone(16000), 16000)
    soundfile.write(files[1], tone(44100, 2), 44100)
    soundfile.write(files[2], tone(8000), 8000)
    assert main(["transcribe", str(folder), *map(str, files), "--size", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == [str(f) for f in files]
    for line in lines:
        assert re.search(r"\t\d+\.\d\d s\tRTF \d+\.\d{3}$", line)


def test_resampling_and_channels(tmp_path):
    heard = []

    def recogniser(samples):
        heard.append(samples)
        return [("text",)]

    soundfile.write(tmp_path / "x.flac", tone(48000, 2), 48000)
    samples, rate = read_audio(tmp_path / "x.flac")
    assert rate == 48000 and samples.shape == (48000,)
    assert transcribe(recogniser, samples, rate, 16000) == "text"
    expected = tone(16000)[:, 0]
    np.testing.assert_allclose(heard[0][100:-100], expected[100:-100], atol=2e-3)


@pytest.mark.parametrize(
    "content, message", [(b"no audio", "cannot be read"), (None, "cannot be read")]
)
def test_what_is_not_audio(tmp_path, capsys, content, message):
    path = tmp_path / "x.wav"
    if content is not None:
        path.write_bytes(content)
    assert main(["transcribe", str(tmp_path / "none.zip"), str(path)]) == 2
    assert message in capsys.readouterr().err


def test_a_model_that_is_not_there(tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", tone(16000), 16000)
    command = ["transcribe", str(tmp_path / "none.zip"), str(tmp_path / "a.wav")]
    assert main(command) == 2
    assert "none.zip does not exist: give a folder or a zip" in capsys.readouterr().err


def test_an_empty_file(tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 16000)
    assert main(["transcribe", "x.zip", str(tmp_path / "a.wav")]) == 2
    assert "a.wav has no samples" in capsys.readouterr().err
