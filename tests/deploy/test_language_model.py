"""A language model that goes with an ASR model, packed and opened."""

import zipfile

import pytest
import torch
import yaml
from conftest import TOKENS
from experiment import HYBRID, LM_MODEL, MODEL, experiment, language_model

import espnet_dynsize
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy.pack import pack


def rezipped(source, target, changes):
    """A copy of a zip, with other bytes in the members whose names end so."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            ends = [end for end in changes if name.endswith(end)]
            new.writestr(name, changes[ends[0]] if ends else old.read(name))
    return target


@pytest.mark.parametrize("name", ["lm_train", "asr"])
def test_it_is_packed_as_it_is(tmp_path, name):
    """Also where its folder is called as the ASR model's."""
    conf = {"ctc_weight": 0.3, "sizes": [3, 5, 8]}
    folder, _ = experiment(tmp_path / "asr", **HYBRID, model_conf=conf)
    (tmp_path / "other").mkdir()
    lm = language_model(tmp_path / "other" / name)
    path = pack(folder, MODEL, tmp_path / "x.zip", lm_exp=lm, search={"lm_weight": 0.4})
    with zipfile.ZipFile(path) as archive:
        meta = yaml.safe_load(archive.read("meta.yaml"))
        weights = archive.read(meta["files"]["lm_file"])
        assert len(set(archive.namelist())) == len(archive.namelist())
    assert weights == (lm / LM_MODEL).read_bytes()
    search = espnet_dynsize.load(path).beam_search
    states = torch.load(lm / LM_MODEL)
    for key, value in search.full_scorers["lm"].state_dict().items():
        torch.testing.assert_close(value, states[f"lm.{key}"])


def spoil(lm, kind):
    """Change a language model's files; what is to be said of them."""
    states = torch.load(lm / LM_MODEL)
    config = yaml.safe_load((lm / "config.yaml").read_text())
    name = "lm.embed.weight"
    if kind == "nan":
        states[name][0, 0] = torch.nan
        said = f"{name} holds numbers that are not finite"
    elif kind == "lost":
        del states[name]
        said = f"{name} is only in the model"
    elif kind == "shape":
        config["lm_conf"]["unit"] = 5
        said = r"w_1.bias has shape \[4\], the model \[5\]"
    elif kind == "tokens":
        config["token_list"] = [*TOKENS[:2], "B", "A", *TOKENS[4:]]
        said = "token_list must be the ASR model's: token 2 is 'B', not 'A'"
    elif kind == "number":
        config["token_list"] = [*TOKENS, "D"]
        said = "must be the ASR model's: it has 7 tokens, not 6"
    elif kind == "no tokens":
        del config["token_list"]
        said = "token_list=None must be a list of tokens"
    elif kind == "init":
        del config["init"]  # which ESPnet reads
        said = "config.yaml: the config describes no model that ESPnet can build"
    elif kind == "layers":
        config["lm_conf"]["layer"] = 10**8
        said = "lm_conf: layer=100000000 must be at most 10000"
    else:
        config["lm_conf"]["nosuch"] = 1
        said = "config.yaml: the config describes no model that ESPnet can build"
    torch.save(states, lm / LM_MODEL)
    (lm / "config.yaml").write_text(yaml.safe_dump(config))
    return said


KINDS = ["nan", "lost", "shape", "tokens", "number", "no tokens"]
KINDS += ["init", "layers", "option"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_would_be_decoded_as_nonsense(tmp_path, kind):
    folder, _ = experiment(tmp_path / "asr")
    lm = language_model(tmp_path / "lm_train")
    whole = pack(folder, MODEL, tmp_path / "whole.zip", lm_exp=lm)
    said = spoil(lm, kind)
    with pytest.raises(ConfigError, match=said):
        pack(folder, MODEL, tmp_path / "x.zip", lm_exp=lm)
    assert not (tmp_path / "x.zip").exists()
    changes = {
        f"lm_train/{name}": (lm / name).read_bytes()
        for name in ("config.yaml", LM_MODEL)
    }
    with pytest.raises(ConfigError, match=said):
        espnet_dynsize.load(rezipped(whole, tmp_path / "bad.zip", changes))


def test_files_that_are_missing(tmp_path):
    folder, _ = experiment(tmp_path / "asr")
    lm = language_model(tmp_path / "lm_train")
    (lm / LM_MODEL).unlink()
    with pytest.raises(ConfigError, match=f"lm_train/{LM_MODEL} does not exist"):
        pack(folder, MODEL, tmp_path / "x.zip", lm_exp=lm)
    config = str(lm / "config.yaml")
    with pytest.raises(ConfigError, match="config.yaml: lm_train_config and lm_file"):
        espnet_dynsize.load(folder, lm_train_config=config)


def test_tokens_in_a_file(tmp_path):
    """As configs of ESPnet3 have them."""
    tokens = tmp_path / "tokens.txt"
    tokens.write_text("\n".join(TOKENS))
    (tmp_path / "exp").mkdir()
    folder, _ = experiment(tmp_path / "exp" / "asr")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["token_list"] = "tokens.txt"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    lm = language_model(tmp_path / "lm_train")
    espnet_dynsize.load(pack(folder, MODEL, tmp_path / "x.zip", lm_exp=lm))
