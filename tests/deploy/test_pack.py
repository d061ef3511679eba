import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
import yaml
from espnet2.bin.asr_inference import Speech2Text
from experiment import MODEL, experiment, posteriors

import espnet_dynsize
from espnet_dynsize.bin.main import main
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy.extract import extract
from espnet_dynsize.deploy.pack import pack


@pytest.fixture
def supernet(tmp_path):
    """With a file of statistics, in a path with a space."""
    work = tmp_path / "my work"
    work.mkdir()
    stats = work / "feats_stats.npz"
    np.savez(stats, count=10, sum=np.arange(20.0), sum_square=np.full(20, 100.0))
    options = dict(normalize="global_mvn", normalize_conf={"stats_file": str(stats)})
    folder, model = experiment(work / "asr", **options)
    return folder, model


def zoo_model(path, tmp_path, monkeypatch):
    """Through ESPnet's own way, with a cache of its own."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    espnet_dynsize.register()
    return Speech2Text.from_pretrained(str(path), ctc_weight=1.0, beam_size=1)


def test_every_size_opens_through_the_model_zoo(
    supernet, tmp_path, monkeypatch, capsys
):
    folder, model = supernet
    assert main(["pack", "--asr_exp", str(folder), "--family"]) == 0
    packed = capsys.readouterr().out.splitlines()
    assert len(packed) == 3
    audio = torch.randn(8000)
    for size, path in zip((3, 5, 8), packed):
        moved = tmp_path / "elsewhere" / f"{size}.zip"
        moved.parent.mkdir(exist_ok=True)
        (folder.parent / f"asr_size{size}" / path.rsplit("/", 1)[1]).rename(moved)
    (folder.parent / "feats_stats.npz").unlink()
    for size in (3, 5, 8):
        moved = tmp_path / "elsewhere" / f"{size}.zip"
        with model.activate(model.subnet(size)):
            expected = posteriors(model, audio)
        for opened in (
            zoo_model(moved, tmp_path, monkeypatch),
            espnet_dynsize.load(moved, beam_size=1),
        ):
            found = posteriors(opened.asr_model, audio)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_what_is_in_the_zip(supernet):
    folder, _ = supernet
    (extracted,) = extract(folder, MODEL, [5])
    (extracted.directory / "RESULTS.md").write_text("# RESULTS\n|size5|12.3|\n")
    (folder / "family").mkdir()
    (folder / "family" / "report.md").write_text("| asr_size3 | 45.6 |\n")
    path = pack(extracted.directory, MODEL)
    assert path == extracted.directory / "asr_size5_valid.cer_ctc.ave.zip"
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        card = archive.read("README.md").decode()
        record = yaml.safe_load(archive.read("exp/asr_size5/origin.yaml"))
        config = yaml.safe_load(archive.read("exp/asr_size5/config.yaml"))
    assert names == {
        "meta.yaml",
        "README.md",
        "data/feats_stats.npz",
        *(f"exp/asr_size5/{n}" for n in ("config.yaml", MODEL, "origin.yaml")),
        "exp/asr_size5/RESULTS.md",
    }
    assert (record["size"], record["family"]) == (5, [3, 5, 8])
    assert record["espnet_dynsize"] == espnet_dynsize.__version__
    front = yaml.safe_load(card.split("---")[1])
    assert {"espnet", "automatic-speech-recognition"} <= set(front["tags"])
    assert "Size 5 of a family of sizes (3, 5, 8)" in card
    assert "## The family\n\n| asr_size3 | 45.6 |" in card
    assert "soundfile.read" in card and "recogniser(audio)" in card
    # Neither a licence, which is not ours to give, nor a name that nobody owns
    assert "license" not in front and "pip install" not in card
    assert "|size5|12.3|" in card and "its plugin `espnet_dynsize`" in card
    assert config["normalize_conf"]["stats_file"] == "data/feats_stats.npz"


def test_the_card_of_a_model_that_takes_features(tmp_path):
    front = dict(input_size=20, frontend=None, frontend_conf={}, normalize=None)
    folder, _ = experiment(tmp_path / "asr", normalize_conf={}, **front)
    with zipfile.ZipFile(pack(folder, MODEL)) as archive:
        card = archive.read("README.md").decode()
    assert "float array [frames, 20]" in card and "soundfile" not in card


def test_files_are_those_of_the_model_s_own_recipe(tmp_path, monkeypatch):
    """Another recipe, in which the command is given, has files of the same names."""
    options = dict(normalize="global_mvn", normalize_conf={"stats_file": "data/s.npz"})
    for recipe, number in (("other", 3.0), ("own", 2.0)):
        (tmp_path / recipe / "data").mkdir(parents=True)
        (tmp_path / recipe / "asr.sh").touch()
        sums = dict(sum=np.full(20, number), sum_square=np.full(20, 100.0))
        np.savez(tmp_path / recipe / "data" / "s.npz", count=10, **sums)
    (tmp_path / "own" / "exp").mkdir()
    monkeypatch.chdir(tmp_path / "own")
    folder, _ = experiment(tmp_path / "own" / "exp" / "asr", **options)
    monkeypatch.chdir(tmp_path / "other")
    with zipfile.ZipFile(pack(folder, MODEL)) as archive:
        packed = archive.read("data/s.npz")
    assert packed == (tmp_path / "own" / "data" / "s.npz").read_bytes()


WITHOUT_PLUGIN = """
import sys
from espnet2.bin.asr_inference import Speech2Text
sys.modules["espnet_dynsize"] = None
plugin, stock = sys.argv[1:]
Speech2Text.from_pretrained(stock, ctc_weight=1.0)
try:
    Speech2Text.from_pretrained(plugin, ctc_weight=1.0)
except ValueError as error:
    print("REFUSED", error)
"""


def test_espnet_without_the_plugin(tmp_path, monkeypatch):
    folder, _ = experiment(tmp_path / "asr", dict(conv_norm="batch_norm"))
    zips = [
        pack(extract(folder, MODEL, [5], form)[0].directory, MODEL)
        for form in ("plugin", "stock")
    ]
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    command = [sys.executable, "-c", WITHOUT_PLUGIN, *map(str, zips)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "REFUSED" in done.stdout and "needs the plugin espnet_dynsize" in done.stdout


PLAIN = """
import sys
from espnet2.bin.asr_inference import Speech2Text
Speech2Text.from_pretrained(sys.argv[1])
"""


def test_kaldi_s_features_need_the_plugin(tmp_path, monkeypatch):
    folder, _ = experiment(
        tmp_path / "asr",
        model="espnet",
        encoder="conformer",
        model_conf=dict(ctc_weight=1.0),
        encoder_conf=dict(output_size=8, attention_heads=2, num_blocks=1),
        frontend="kaldi",
        frontend_conf=dict(n_mels=20),
    )
    packed = pack(folder, "")
    card = zipfile.ZipFile(packed).read("README.md").decode()
    assert "needs ESPnet and its plugin" in card
    speech = np.zeros(16000, np.float32)
    for path in (folder, packed):
        assert len(espnet_dynsize.load(path)(speech)) == 1
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    command = [sys.executable, "-c", PLAIN, str(packed)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "kaldi (needs the plugin espnet_dynsize)" in done.stderr


def test_files_of_one_name(supernet):
    """Each is packed; the config says where."""
    folder, _ = supernet
    (folder / "feats_stats.npz").write_text("<noise>\n")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["non_linguistic_symbols"] = str(folder / "feats_stats.npz")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with zipfile.ZipFile(pack(folder, MODEL)) as archive:
        config = yaml.safe_load(archive.read("exp/asr/config.yaml"))
        symbols = archive.read(config["non_linguistic_symbols"])
        stats = archive.read(config["normalize_conf"]["stats_file"])
    assert symbols == b"<noise>\n"
    assert stats == (folder.parent / "feats_stats.npz").read_bytes()


def test_missing_files(supernet):
    folder, _ = supernet
    with pytest.raises(ConfigError, match="model_file=none.pth must be a file in"):
        pack(folder, "none.pth")
    (folder.parent / "feats_stats.npz").unlink()
    with pytest.raises(ConfigError, match="feats_stats.npz, which exists neither"):
        pack(folder, MODEL)
    assert not list(folder.glob("*.zip*"))


def test_zips_that_are_not_as_packed(supernet, tmp_path):
    folder, _ = supernet
    whole = pack(folder, MODEL)
    lacking = tmp_path / "lacking.zip"
    outside = tmp_path / "outside.zip"
    with zipfile.ZipFile(whole) as old:
        with zipfile.ZipFile(lacking, "w") as new:
            for name in old.namelist():
                if not name.endswith(".pth"):
                    new.writestr(name, old.read(name))
        with zipfile.ZipFile(outside, "w") as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
            new.writestr("../../evil.txt", "x")
    with pytest.raises(ConfigError, match=f"lacking.zip lacks exp/asr/{MODEL}, which"):
        espnet_dynsize.load(lacking)
    with pytest.raises(ConfigError, match="member ../../evil.txt, which leads out"):
        espnet_dynsize.load(outside)
