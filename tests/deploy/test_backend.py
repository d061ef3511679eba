"""Sparse models that compute without their zeros."""

import logging

import numpy as np
import pytest
import soundfile
import torch
from experiment import AVERAGED, experiment

import espnet_dynsize
from espnet_dynsize.bin.main import main
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy.extract import extract
from espnet_dynsize.encoder import blocked
from espnet_dynsize.encoder.blocked import Blocked

pytest.importorskip("llvmlite.binding")
SPARSITY = dict(levels=[0, 0.7], start=0.7, ramp_end=0.8, freeze=0.9)


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    torch.manual_seed(0)
    folder, model = experiment(
        tmp_path_factory.mktemp("models") / "asr",
        dict(sparsity=SPARSITY, conv_norm="layer_norm", input_layer="conv2d"),
    )
    model.schedule.plan(20)
    for _ in range(20):
        model.begin_update(0)
    torch.save(model.state_dict(), folder / AVERAGED)
    return folder


@pytest.fixture(autouse=True)
def _small_matrices_too(monkeypatch):
    monkeypatch.setattr(blocked, "SMALL", 1)


def heard(recogniser, speech):
    with torch.no_grad():
        model, lengths = recogniser.asr_model, torch.tensor([len(speech)])
        encoded, _ = model.encode(torch.from_numpy(speech)[None], lengths)
        return model.ctc.log_softmax(encoded)


def noise():
    return np.random.default_rng(0).normal(size=16000).astype(np.float32) / 10


def test_it_hears_the_same(family, tmp_path, capsys):
    dense = espnet_dynsize.load(family, "8_sparsity70")
    sparse = espnet_dynsize.load(family, "8_sparsity70", backend="sparse")
    found = [m for m in sparse.asr_model.modules() if isinstance(m, Blocked)]
    # Of 22; by chance, more than half of some small ones' groups are left.
    assert len(found) > 5
    ours, theirs = heard(sparse, noise()), heard(dense, noise())
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    assert all(module.groups is not None for module in found)
    assert sparse(noise())[0][:3] == dense(noise())[0][:3]
    extract(family, "", ["8_sparsity70"])
    soundfile.write(tmp_path / "a.wav", noise(), 16000)
    given = ["transcribe", str(family.with_name("asr_size8_sparsity70"))]
    assert main([*given, str(tmp_path / "a.wav"), "--backend", "sparse"]) == 0
    assert capsys.readouterr().out.split("\t")[1] == dense(noise())[0][0]


def test_what_is_refused(family, monkeypatch):
    with pytest.raises(ConfigError, match="must be dense: .* no matrix whose zeros"):
        espnet_dynsize.load(family, 3, backend="sparse")
    with pytest.raises(ConfigError, match="of a supernet, choose a sparse member"):
        espnet_dynsize.load(family, backend="sparse")
    with pytest.raises(ConfigError, match="backend=fast must be one of"):
        espnet_dynsize.load(family, 3, backend="fast")
    monkeypatch.setattr(
        "espnet_dynsize.deploy.open._device", lambda device: str(device)
    )
    with pytest.raises(ConfigError, match="backend=sparse must be dense on a GPU"):
        espnet_dynsize.load(family, 3, backend="sparse", device="cuda")


def test_without_llvmlite_it_is_dense(family, monkeypatch, caplog):
    monkeypatch.setattr(blocked, "kernel", lambda: None)
    with caplog.at_level(logging.WARNING):
        found = espnet_dynsize.load(family, "8_sparsity70", backend="sparse")
    assert "llvmlite is not installed" in caplog.text
    assert not any(isinstance(m, Blocked) for m in found.asr_model.modules())
    assert found(noise())
