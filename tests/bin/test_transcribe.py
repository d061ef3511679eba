import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from conftest import TOKENS, randomise
from experiment import AVERAGED, experiment

from espnet_dynsize.bin.main import main
from espnet_dynsize.deploy import audio
from espnet_dynsize.deploy.audio import read_audio, transcribe


def tone(rate, channels=1, seconds=1):
    time = np.arange(rate * seconds) / rate
    wave = 0.3 * np.sin(2 * np.pi * 440 * time)
    return np.stack([wave] * channels, axis=1)


@pytest.fixture
def quick(tmp_path):
    """A model that hears nothing: its search is short."""
    folder, model = experiment(tmp_path / "asr", dict(input_layer="conv2d"))
    states = model.state_dict()
    for name, value in states.items():
        if name.startswith("ctc.") and name.endswith("bias"):
            value[0] = 100.0  # blank
    torch.save(states, folder / AVERAGED)
    return str(folder)


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


def test_any_subnet(tmp_path, capsys):
    folder, model = experiment(tmp_path / "asr")
    # Such that the sizes hear something else
    randomise(model, 0.5)
    torch.save(model.state_dict(), folder / AVERAGED)
    wav, path = tmp_path / "a.wav", tmp_path / "mine.yaml"
    soundfile.write(wav, tone(16000), 16000)
    texts = []
    path.write_text(yaml.safe_dump(model.subnet(5).to_yaml()))
    for which in (["--size", "5"], ["--subnet", str(path)], []):
        assert main(["transcribe", str(folder), str(wav), *which]) == 0
        texts.append(capsys.readouterr().out.split("\t")[1])
    assert texts[0] == texts[1] != texts[2]
    path.write_text("{num_units: 9, kept: [0], head: full}")
    assert main(["transcribe", str(folder), str(wav), "--subnet", str(path)]) == 2
    assert "subnet: num_units=9 must be 8" in capsys.readouterr().err


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


def test_a_bad_file_does_not_stop_the_others(tmp_path, capsys, quick):
    good = tmp_path / "good.wav"
    soundfile.write(good, tone(16000), 16000)
    (tmp_path / "garbage.wav").write_bytes(b"no audio")
    (tmp_path / "x.raw").write_bytes(bytes(32000))
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    soundfile.write(tmp_path / "25ms.wav", tone(16000)[:400], 16000)
    broken = tone(16000)
    broken[123] = np.nan
    soundfile.write(tmp_path / "nan.wav", broken, 16000, "FLOAT")
    reasons = {
        "none.wav": "does not exist",
        "asr": "is a folder",
        "garbage.wav": "cannot be read as audio",
        "x.raw": "has no header",
        "empty.wav": "has no samples",
        "25ms.wav": "it has 400 samples (25 ms), and the model needs at least 960",
        "nan.wav": "at position 123",
    }
    files = [str(good)]
    for name in reasons:
        files += [str(tmp_path / name), str(good)]
    assert main(["transcribe", quick, *files]) == 2
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert [line.split("\t")[:2] for line in lines] == [[str(good), ""]] * 8
    errors = captured.err.splitlines()
    assert len(errors) == len(reasons)
    for line, (name, reason) in zip(errors, reasons.items()):
        assert line.startswith(f"{tmp_path / name}: ") and reason in line


def test_files_are_done_one_after_another(tmp_path, monkeypatch, capsys, quick):
    files = [str(tmp_path / name) for name in ("a.wav", "b.wav")]
    for file in files:
        soundfile.write(file, tone(16000), 16000)
    opened, printed = audio.opened, []

    def spied(path):
        printed.append(capsys.readouterr().out)
        return opened(path)

    monkeypatch.setattr(audio, "opened", spied)
    assert main(["transcribe", quick, *files]) == 0
    assert [text.partition("\t")[0] for text in printed] == ["", files[0]]


def test_long_audio_is_cut(tmp_path, monkeypatch, capsys, quick):
    sizes, text = [], audio._text

    def spied(recogniser, piece, *rates):
        sizes.append(len(piece))
        return f"{text(recogniser, piece, *rates)}{len(sizes)}"

    monkeypatch.setattr(audio, "_text", spied)
    wave = tone(8000, 1, 50)
    wave[160000:168000] = 0
    soundfile.write(tmp_path / "long.wav", wave, 8000)
    assert main(["transcribe", quick, str(tmp_path / "long.wav")]) == 0
    assert capsys.readouterr().out.split("\t")[1] == "1 2"
    assert sizes == [164000, 400000 - 164000]


def test_names_are_one_line_whatever_bytes_they_have(tmp_path, capfdbinary, quick):
    files = [tmp_path / "a\nb.wav", Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))]
    for file in files:
        with open(file, "wb") as opened:
            soundfile.write(opened, tone(16000), 16000, format="wav")
    assert main(["transcribe", quick, *map(str, files)]) == 0
    names = [line.split(b"\t")[0] for line in capfdbinary.readouterr().out.splitlines()]
    start = os.fsencode(tmp_path)
    assert names == [start + b"/a\\nb.wav", start + "/\ufffd".encode()]


def test_tokens_are_no_commands_to_a_terminal(tmp_path, capsys):
    tokens = [*TOKENS[:2], "\x1b[2J", *TOKENS[3:]]
    folder, model = experiment(tmp_path / "asr", token_list=tokens)
    states = model.state_dict()
    states["ctc.ctc_lo.bias"][2] = 1000.0
    torch.save(states, folder / AVERAGED)
    soundfile.write(tmp_path / "a.wav", tone(16000), 16000)
    assert main(["transcribe", str(folder), str(tmp_path / "a.wav")]) == 0
    assert capsys.readouterr().out.split("\t")[1] == "\\x1b[2J"


def test_a_terminal_has_no_audio(capsys, quick):
    ends = os.openpty()
    assert main(["transcribe", quick, os.ttyname(ends[1])]) == 2
    assert "is a terminal, from which no audio comes." in capsys.readouterr().err
    for end in ends:
        os.close(end)


def test_a_pipe_is_read_when_something_is_in_it(tmp_path, capsys, monkeypatch, quick):
    pipes = [tmp_path / "full", tmp_path / "empty"]
    for pipe in pipes:
        os.mkfifo(pipe)
    soundfile.write(tmp_path / "a.flac", tone(16000), 16000)
    writer = subprocess.Popen(f"cat {tmp_path}/a.flac > {pipes[0]}", shell=True)
    monkeypatch.setattr(audio, "PATIENCE", 1)
    assert main(["transcribe", quick, *map(str, pipes)]) == 2
    assert writer.wait(10) == 0
    said = capsys.readouterr()
    assert re.match(rf"{pipes[0]}\t\t", said.out)
    assert "empty: is a pipe into which nothing is written in 1 s." in said.err


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("number", [1, 2])
def test_progress_on_a_terminal(tmp_path, monkeypatch, capsys, quick, terminal, number):
    soundfile.write(tmp_path / "a.wav", tone(16000), 16000)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    files = [str(tmp_path / "a.wav"), str(tmp_path / "none.wav")]
    main(["transcribe", quick, *files[-number:]])
    captured = capsys.readouterr()
    assert ("2/2" in captured.err) == (terminal and number == 2)
    assert "none.wav: does not exist" in captured.err
    assert len(captured.out.splitlines()) == number - 1


def test_a_model_that_is_not_there(tmp_path, capsys):
    command = ["transcribe", str(tmp_path / "none.zip"), str(tmp_path / "none.wav")]
    assert main(command) == 2
    captured = capsys.readouterr()
    assert "none.zip does not exist: give a folder or a zip" in captured.err
    assert "none.wav" not in captured.err


def test_a_model_that_takes_features(tmp_path, capsys):
    changes = dict(frontend=None, frontend_conf={}, input_size=5)
    folder, _ = experiment(tmp_path / "asr", **changes)
    assert main(["transcribe", str(folder), str(tmp_path / "none.wav")]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "none.wav" not in captured.err
    assert f"model={folder}: this model takes features [frames, 5]" in captured.err


def test_help_tells_of_the_exit_code(capsys):
    with pytest.raises(SystemExit):
        main(["transcribe", "--help"])
    assert "exit code is 2" in " ".join(capsys.readouterr().out.split())
