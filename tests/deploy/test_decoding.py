"""A packed model is decoded as it was scored."""

import zipfile

import pytest
import torch
import yaml
from conftest import TOKENS
from experiment import HYBRID, MODEL, experiment

import espnet_dynsize
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy.decoding import of_search
from espnet_dynsize.deploy.pack import pack


def weights(recogniser) -> tuple:
    search = recogniser.beam_search
    return search.beam_size, search.weights["ctc"], search.weights["length_bonus"]


def test_the_search_goes_with_the_model(tmp_path):
    conf = {"ctc_weight": 0.3, "sizes": [3, 5, 8]}
    folder, _ = experiment(tmp_path / "asr", **HYBRID, model_conf=conf)
    search = {"beam_size": 3, "ctc_weight": 0.4, "penalty": 0.1}
    plain = pack(folder, MODEL, tmp_path / "plain.zip")
    scored = pack(folder, MODEL, tmp_path / "scored.zip", search=search)
    # ESPnet's beam of 20 is wider than there are tokens.
    assert weights(espnet_dynsize.load(plain)) == (len(TOKENS), 0.5, 0.0)
    assert weights(espnet_dynsize.load(scored)) == (3, 0.4, 0.1)
    # What a caller says, counts.
    assert weights(espnet_dynsize.load(scored, beam_size=2)) == (2, 0.4, 0.1)


def test_a_model_without_ctc_is_decoded_without(tmp_path):
    """ESPnet's default search asks it for a CTC score, and ends in a traceback."""
    conf = {"ctc_weight": 0.0, "sizes": [3, 5, 8]}
    folder, _ = experiment(tmp_path / "asr", **HYBRID, model_conf=conf)
    recogniser = espnet_dynsize.load(folder, size=5, maxlenratio=0.1)
    assert weights(recogniser) == (len(TOKENS), 0.0, 0.0)
    ((text, *_),) = recogniser(torch.randn(16000))
    assert isinstance(text, str)
    with pytest.raises(ConfigError, match="ctc_weight=0.3 must be 0: the model has no"):
        espnet_dynsize.load(folder, ctc_weight=0.3)
    with pytest.raises(ConfigError, match="beam_size=7 must be at most 6, the number"):
        espnet_dynsize.load(folder, beam_size=7)


@pytest.mark.parametrize(
    "search, message",
    [
        ({"beam_size": 2000}, "search: beam_size=2000 must be a whole number"),
        ({"maxlenratio": "x"}, "search: maxlenratio=x must be at least -10000 and at"),
        ({"nbest": 2}, "search: nbest=2 is not an option of ESPnet's search"),
        ({"beam_size": 7}, "beam_size=7 must be at most 6, the number of tokens"),
    ],
)
def test_a_search_with_which_nobody_could_open_it(tmp_path, search, message):
    folder, _ = experiment(tmp_path / "asr")
    with pytest.raises(ConfigError, match=message):
        pack(folder, MODEL, search=search)
    assert not list(folder.glob("*.zip"))


def test_a_text_that_is_longer_than_can_be(tmp_path):
    conf = {"ctc_weight": 0.3, "sizes": [3, 5, 8]}
    folder, _ = experiment(tmp_path / "asr", **HYBRID, model_conf=conf)
    recogniser = espnet_dynsize.load(folder, 3, beam_size=2, minlenratio=-50)
    with pytest.raises(ConfigError, match="nothing was found that is as long as minle"):
        recogniser.transcribe(torch.randn(4000), 16000)


def test_a_hostile_search_is_refused(tmp_path):
    folder, _ = experiment(tmp_path / "asr")
    path = pack(folder, MODEL, search={"beam_size": 3})
    for text in ("beam_size: 1.5", "device: cuda", "quantize_modules: [x]", "[1]"):
        hostile = tmp_path / "hostile.zip"
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(hostile, "w") as new:
            for name in old.namelist():
                bad = name.endswith("decoding.yaml")
                new.writestr(name, text if bad else old.read(name))
        with pytest.raises(ConfigError, match="decoding.yaml"):
            espnet_dynsize.load(hostile)


def test_what_of_a_decoding_config_is_kept():
    given = yaml.safe_load("{beam_size: 10, batch_size: 1, lm_weight: 0.6, nbest: 1}")
    given |= {"ctc_weight": "0.3", "normalize_length": "true", "penalty": "1e-3"}
    assert of_search(given) == {
        "beam_size": 10,
        "ctc_weight": 0.3,
        "lm_weight": 0.6,
        "penalty": 0.001,
        "normalize_length": True,
    }
