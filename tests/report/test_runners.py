"""Tables of ONNX files."""

import re

import numpy as np
import pytest
import soundfile
from experiment import TRANSDUCER, experiment

from espnet_dynsize.bin.main import main
from espnet_dynsize.deploy.onnx.export import Options, export
from espnet_dynsize.report import runners
from espnet_dynsize.runtime import Model

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

RATE = 16_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made, _ = experiment(
        tmp_path_factory.mktemp("models") / "asr",
        **TRANSDUCER,
    )
    export(made, "", [], Options())
    return made / "onnx"


@pytest.fixture(scope="module")
def data(tmp_path_factory, folder):
    """Two utterances: of one, the text is what is heard; of the other, twice that."""
    made = tmp_path_factory.mktemp("data")
    model, scp, text = Model(folder / "model.onnx"), "", ""
    for number in (1, 2):
        rng = np.random.default_rng(number)
        speech = rng.normal(size=number * RATE).astype(np.float32) / 10
        soundfile.write(made / f"{number}.wav", speech, RATE, subtype="FLOAT")
        scp += f"u{number} {made}/{number}.wav\n"
        heard = model.transcribe(speech)
        assert heard and " " not in heard
        text += f"u{number} {' '.join([heard] * number)}\n"
    (made / "wav.scp").write_text(scp)
    (made / "text").write_text(text)
    return made


def test_parts_alone_are_refused(folder, data, capsys):
    part = folder / "model_joint.onnx"
    assert main(["report", str(part), "--data", str(data)]) == 2
    assert "is a part of a model" in capsys.readouterr().err


@pytest.mark.parametrize("at_once", [1, 500])
def test_a_table(folder, data, capsys, monkeypatch, at_once):
    monkeypatch.setattr(runners, "AT_ONCE", at_once)
    paths = sorted(map(str, folder.glob("*.onnx")))
    assert len(paths) == 3
    assert main(["report", *paths, "--data", str(data)]) == 0
    head, _, *rows = capsys.readouterr().out.splitlines()
    (row,) = [[cell.strip() for cell in line.strip("|").split("|")] for line in rows]
    assert head.startswith("| file | MB |")
    name, megabytes, peak, rtf, wer, cer = row
    size = sum(path.stat().st_size for path in folder.glob("*.onnx"))
    assert name == "model.onnx" and float(megabytes) == pytest.approx(
        size / 1e6, abs=0.01
    )
    # A process with numpy and onnxruntime, and without PyTorch
    assert 20 < float(peak) < 300
    assert 0 < float(rtf) < 1
    assert wer == "33.3" and 30 < float(cer) < 50


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["m.onnx"], "--data=None must be given with .onnx files"),
        (["m.onnx", "exp", "--data", "d"], "all of them .onnx files"),
        (["exp", "--data", "d"], "all of them .onnx files, or none, without --data"),
        (["m.onnx", "--data", "d", "--audio", "a"], "--audio=.* must be left out"),
    ],
    ids=str,
)
def test_what_is_refused(capsys, arguments, message):
    assert main(["report", *arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error


def test_audio_that_cannot_be_heard(folder, data, tmp_path, capsys):
    (tmp_path / "wav.scp").write_text(f"u1 {data}/1.wav\nu2 nowhere.wav\n")
    (tmp_path / "text").write_text("u1 A\nu2 B\n")
    given = ["report", str(folder / "model.onnx"), "--data", str(tmp_path)]
    assert main(given) == 2
    assert "nowhere.wav" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "no.onnx"), "--data", str(data)]) == 2
    assert "no.onnx is no file" in capsys.readouterr().err
