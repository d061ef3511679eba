import zipfile

import pytest
import torch
import yaml
from conftest import encoder_conf
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.bin.asr_inference import Speech2Text
from espnet2.main_funcs.pack_funcs import pack
from experiment import MODEL, experiment, posteriors

import espnet_dynsize
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy.extract import extract
from espnet_dynsize.deploy.pack import pack as pack_size
from espnet_dynsize.train.task import DynSizeASRTask


def packed(folder, path):
    pack(
        {"asr_model_file": folder / MODEL},
        {"asr_train_config": folder / "config.yaml"},
        path,
    )
    return path


@pytest.mark.parametrize("size", [3, 5, 8])
@pytest.mark.parametrize("form", ["folder", "zip", "extracted", "zip of extracted"])
def test_every_form_gives_the_size(tmp_path, monkeypatch, size, form):
    monkeypatch.chdir(tmp_path)
    folder, model = experiment(tmp_path / "asr")
    path = folder
    if "extracted" in form:
        path = extract(folder, MODEL, [size])[0].directory
    if "zip" in form:
        path = packed(path, tmp_path / "model.zip")
    recogniser = espnet_dynsize.load(path, size=size, beam_size=1)
    assert isinstance(recogniser, Speech2Text)
    audio = torch.randn(8000)
    with model.activate(size):
        expected = posteriors(model, audio)
    torch.testing.assert_close(
        posteriors(recogniser.asr_model, audio), expected, atol=1e-5, rtol=0
    )
    assert type(recogniser.asr_model) is ESPnetASRModel
    with pytest.raises(
        ConfigError, match=r"activate\(3\): this model has only one size"
    ):
        recogniser.asr_model.activate(3)
    ((text, *_),) = recogniser(audio)
    assert isinstance(text, str)


def test_without_a_size_the_full_network_can_be_switched(tmp_path):
    folder, model = experiment(tmp_path / "asr")
    loaded = espnet_dynsize.load(folder).asr_model
    audio = torch.randn(8000)
    torch.testing.assert_close(posteriors(loaded, audio), posteriors(model, audio))
    with loaded.activate(3), model.activate(3):
        torch.testing.assert_close(posteriors(loaded, audio), posteriors(model, audio))


def test_a_size_of_a_config_with_every_default_and_of_a_lightning_checkpoint(tmp_path):
    conf = dict(keep_layers=None, keep_components=None)
    folder, model = experiment(tmp_path / "asr", conf)
    torch.save({"state_dict": model.state_dict()}, folder / MODEL)
    loaded = espnet_dynsize.load(folder, size=3).asr_model
    audio = torch.randn(8000)
    with model.activate(3):
        expected = posteriors(model, audio)
    torch.testing.assert_close(posteriors(loaded, audio), expected, atol=1e-5, rtol=0)
    whole = espnet_dynsize.load(folder).asr_model
    torch.testing.assert_close(posteriors(whole, audio), posteriors(model, audio))


STOCK = dict(
    encoder="conformer",
    model="espnet",
    encoder_conf=encoder_conf(),
    model_conf={"ctc_weight": 1.0},
)


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_a_stock_model_is_refused(tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    path, _ = experiment(tmp_path / "asr", **STOCK)
    if form == "zip":
        path = packed(path, tmp_path / "model.zip")
    with pytest.raises(ConfigError, match="holds encoder: conformer, not a model of"):
        espnet_dynsize.load(path, size=3)


def test_a_size_that_is_not_there(tmp_path):
    folder, _ = experiment(tmp_path / "asr")
    with pytest.raises(ConfigError, match=r"size=4 must be one of \[3, 5, 8\]"):
        espnet_dynsize.load(folder, size=4)
    small = extract(folder, MODEL, [3])[0].directory
    with pytest.raises(ConfigError, match="size=5 is not in .*, which holds size 3"):
        espnet_dynsize.load(small, size=5)


@pytest.mark.parametrize("granularity", ["layer", "component"])
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_sizes_of_budgets_keep_their_names(tmp_path, monkeypatch, granularity, form):
    monkeypatch.chdir(tmp_path)
    conf = dict(budgets={"params": [0.6, 1]}, sizes=None, granularity=granularity)
    folder, model = experiment(tmp_path / "asr", conf)
    path = extract(folder, MODEL, [60])[0].directory
    if form == "zip":
        path = pack_size(path, MODEL)
    audio = torch.randn(8000)
    with model.activate(60):
        expected = posteriors(model, audio)
    loaded = espnet_dynsize.load(path, size=60).asr_model
    torch.testing.assert_close(posteriors(loaded, audio), expected, atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match="size=100 is not in .*, which holds size 60"):
        espnet_dynsize.load(path, size=100)


def test_paths_that_hold_no_model(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        espnet_dynsize.load(tmp_path / "nothing.zip")
    with pytest.raises(ConfigError, match="has no config.yaml"):
        espnet_dynsize.load(tmp_path)
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(ConfigError, match="is not a packed ESPnet model"):
        espnet_dynsize.load(tmp_path / "text.zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme", "no model")
    with pytest.raises(ConfigError, match="no meta.yaml"):
        espnet_dynsize.load(tmp_path / "other.zip")
    with zipfile.ZipFile(tmp_path / "lm.zip", "w") as archive:
        archive.writestr("meta.yaml", yaml.safe_dump({"files": {}, "yaml_files": {}}))
    with pytest.raises(ConfigError, match="is not a packed ASR model"):
        espnet_dynsize.load(tmp_path / "lm.zip")


def test_a_supernet_s_checkpoint_is_not_loaded_into_a_stock_model(tmp_path):
    folder, _ = experiment(tmp_path / "asr")
    stock, _ = experiment(tmp_path / "stock", **STOCK)
    with pytest.raises(ConfigError, match="is a supernet's, but its config has"):
        DynSizeASRTask.build_model_from_file(stock / "config.yaml", folder / MODEL)
    with pytest.raises(ConfigError, match="does not fit its config"):
        DynSizeASRTask.build_model_from_file(folder / "config.yaml", stock / MODEL)
    model, _ = DynSizeASRTask.build_model_from_file(
        stock / "config.yaml", stock / MODEL
    )


@pytest.mark.parametrize(
    "section, key, value",
    [
        ("encoder_conf", "input_layer", "conv2d77"),
        ("encoder_conf", "input_layer", ["conv2d"]),
        ("encoder_conf", "num_blocks", "two"),
        ("encoder_conf", "attention_heads", 0),
        ("frontend_conf", "fs", 0),
        ("frontend_conf", "fs", "quick"),
        ("frontend_conf", "n_fft", 10**9),
        ("frontend_conf", "hop_length", 0),
        ("frontend_conf", "hop_length", -5),
        ("frontend_conf", "nosuch", 1),
        ("ctc_conf", "ctc_type", "nosuch"),
    ],
)
def test_options_of_espnet_that_build_nothing(tmp_path, section, key, value):
    folder, _ = experiment(tmp_path / "asr")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config[section] = {**(config[section] or {}), key: value}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for size in (None, 3):
        with pytest.raises(ConfigError) as error:
            espnet_dynsize.load(folder, size)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"beam_size": 0},
        {"ctc_weight": float("nan")},
        {"penalty": float("inf")},
        {"minlenratio": 1.5},
        {"minlenratio": -20000},
        {"maxlenratio": 11},
        {"maxlenratio": -20000},
    ],
    ids=str,
)
def test_searches_that_find_nothing(tmp_path, options):
    folder, _ = experiment(tmp_path / "asr")
    with pytest.raises(ConfigError, match=f"{next(iter(options))}=.* must be"):
        espnet_dynsize.load(folder, 3, **options)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"size": 3.0}, "size=3.0 must be a whole number"),
        ({"size": True}, "size=True must be a whole number"),
        ({"path": None}, "path=None must be a string or a pathlib.Path"),
        ({"path": b"/tmp"}, "path=.* must be a string or a pathlib.Path"),
        ({"path": ""}, "path= must be a string or a pathlib.Path"),
        ({"model_file": 3}, "model_file=3 must be a string or a pathlib.Path"),
        ({"nbest": 0}, "nbest=0 must be a whole number, at least 1"),
        ({"dtype": "float16"}, "dtype=float16 must be one of float32, float64, bfloat"),
        ({"device": "nonsense"}, "device=nonsense must be cpu, cuda or cuda:N"),
        ({"device": "meta"}, "device=meta must be cpu, cuda or cuda:N"),
        ({"beam_size": 99999999}, "beam_size=99999999 must be a whole number, .* most"),
    ],
)
def test_what_cannot_be_asked_for(tmp_path, options, message):
    """Found before a file is read: there is none."""
    with pytest.raises(ConfigError, match=message):
        espnet_dynsize.load(**{"path": tmp_path, **options})


@pytest.mark.parametrize(
    "key", ["asr_train_config", "multi_asr", "bogus", "decoding_window"]
)
def test_options_that_a_model_has_not(tmp_path, key):
    folder, _ = experiment(tmp_path / "asr")
    with pytest.raises(
        ConfigError, match=f"{key}=1 must be left out: load has no such"
    ):
        espnet_dynsize.load(folder, **{key: 1})


@pytest.mark.parametrize("device", ["cpu", None, "cpu:0", torch.device("cpu")])
def test_a_device_has_many_names(tmp_path, device):
    folder, _ = experiment(tmp_path / "asr")
    assert espnet_dynsize.load(folder, 3, device=device).device == "cpu"
