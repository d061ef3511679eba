"""Exports in a model's zip."""

import zipfile

import numpy as np
import pytest
import torch
from experiment import AVERAGED, TRANSDUCER, experiment

import espnet_dynsize
from espnet_dynsize.bin.main import main
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy.extract import extract
from espnet_dynsize.deploy.onnx.export import Options, export
from espnet_dynsize.deploy.pack import pack
from espnet_dynsize.runtime import Model

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

CONV2D = dict(input_layer="conv2d", cnn_module_kernel=5)


def test_they_go_with_the_model(tmp_path, capsys):
    supernet, _ = experiment(
        tmp_path / "asr", CONV2D, frontend="kaldi", frontend_conf=dict(n_mels=20)
    )
    extract(supernet, "", [3])
    folder = tmp_path / "asr_size3"
    export(folder, "", [], Options())
    export(folder, "", [], Options(quantise=True, force=True))
    export(folder, "", [], Options(sherpa=True))
    assert main(["pack", "--asr_exp", str(folder), "--onnx"]) == 0
    packed = capsys.readouterr().out.strip()
    files = zipfile.ZipFile(packed)
    onnx = "exp/asr_size3/onnx"
    for name in ("model.onnx", "model_int8.onnx", "model_sherpa/tokens.txt"):
        assert f"{onnx}/{name}" in files.namelist()
    card = files.read("README.md").decode()
    assert "python runtime.py model.onnx speech.wav" in card
    for name in ("model.onnx", "model_int8.onnx", "model_sherpa/model.onnx"):
        assert f"- `{onnx}/{name}`\n" in card
    files.extractall(tmp_path / "there")
    speech = np.random.default_rng(0).normal(size=16000).astype(np.float32)
    model = Model(tmp_path / "there" / onnx / "model.onnx")
    assert np.isfinite(model.log_probabilities(speech)).all()
    espnet_dynsize.load(packed)(speech)  # opens as without
    # They go only where they are asked for.
    (folder / "asr_size3_valid.cer_ctc.ave.zip").unlink()
    assert main(["pack", "--asr_exp", str(folder)]) == 0
    files = zipfile.ZipFile(packed)
    assert not any("onnx" in name for name in files.namelist())
    assert "On a device" not in files.read("README.md").decode()


def test_other_files_stay(tmp_path):
    folder, _ = experiment(tmp_path / "asr", CONV2D)
    export(folder, "", [], Options())
    (folder / "onnx" / "notes.txt").write_text("mine")
    (folder / "onnx" / ".model.onnx.host.1.partial").write_text("half")
    (folder / "onnx" / "loop").symlink_to(folder / "onnx")
    files = zipfile.ZipFile(pack(folder, "", onnx=True)).namelist()
    assert [n for n in files if "/onnx/" in n] == ["exp/asr/onnx/model.onnx"]


def test_a_family_without_all_exports_is_not_packed(tmp_path, capsys):
    folder, _ = experiment(tmp_path / "asr", CONV2D)
    extract(folder, "", [3, 5, 8])
    export(tmp_path / "asr_size3", "", [], Options())
    assert main(["pack", "--asr_exp", str(folder), "--family", "--onnx"]) == 2
    assert "onnx has no model: `espnet-dynsize export" in capsys.readouterr().err
    assert not list(tmp_path.glob("*/*.zip"))


def test_all_parts_of_a_transducer(tmp_path):
    folder, _ = experiment(
        tmp_path / "asr",
        CONV2D,
        **TRANSDUCER,
    )
    export(folder, "", [], Options())
    files = zipfile.ZipFile(pack(folder, "", onnx=True))
    names = [n for n in files.namelist() if "/onnx/" in n]
    assert len(names) == 3
    assert files.read("README.md").decode().count(".onnx`") == 1
    (folder / "onnx" / "model_joint.onnx").unlink()
    with pytest.raises(ConfigError, match="model_joint.onnx is no file"):
        pack(folder, "", tmp_path / "other.zip", onnx=True)


def test_what_is_refused(tmp_path):
    folder, model = experiment(tmp_path / "asr", CONV2D)
    with pytest.raises(ConfigError, match="onnx has no model: .*--asr_exp"):
        pack(folder, "", onnx=True)
    export(folder, "", [], Options())
    model.ctc.ctc_lo.bias.data += 1
    torch.save(model.state_dict(), folder / AVERAGED)
    with pytest.raises(ConfigError, match="model.onnx was made of another checkpoint"):
        pack(folder, "", onnx=True)
    (folder / "onnx" / "other.onnx").write_text("no model")
    (folder / "onnx" / "model.onnx").unlink()
    with pytest.raises(ConfigError, match="other.onnx cannot be opened"):
        pack(folder, "", onnx=True)
    assert not list(folder.glob("*.zip"))
