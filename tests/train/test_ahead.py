"""What a training would refuse is refused before there are data."""

import pytest
import yaml
from conftest import model_config

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.train.ahead import check_ahead

KEYS = ("encoder", "encoder_conf", "model", "model_conf")


def check(tmp_path, *arguments, audio=True, family=None, **changes):
    """Check the tests' model, of eight layers, with changes to its options."""
    config = model_config(**(family or {}))
    config = {key: config[key] for key in KEYS} | changes
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(config))
    check_ahead(["--config", str(path), *arguments], audio)


@pytest.mark.parametrize(
    "family, message",
    [
        ({"selector": "simple_topk"}, "selector=simple_topk must be one of"),
        ({"selector_conf": {"k_steps": 1}}, "k_steps=1 is not an .* mean k_step?"),
        ({"selector_conf": {"k_step": 9}}, "k_step=9 must be between 1 and 8"),
        ({"sizes": [5, 3, 8]}, r"sizes=\[5, 3, 8\] must be increasing"),
        ({"sizes": [3, 9]}, r"sizes=\[3, 9\] must end with the full size, 8"),
        (
            {"sizes": None, "budgets": {"params": [0.01, 1]}},
            r"budgets: params=\[0.01, 1\]: the smallest must be at least",
        ),
        ({"attention_heads": 3}, "the model cannot be built: assert n_feat % n_head"),
    ],
)
def test_a_family_that_cannot_be_built(tmp_path, family, message):
    with pytest.raises(ConfigError, match=message):
        check(tmp_path, family=family)


@pytest.mark.parametrize(
    "arguments, changes, message",
    [
        ((), {"optim_conf": {"lr": "1e-3"}}, "optim_conf: lr=1e-3 must be a number"),
        ((), {"optims": "adam"}, "would refuse: unrecognized arguments: optims"),
        (("--max_epoch", "x"), {}, "asr_train would refuse: argument --max_epoch: inv"),
        ((), {"frontend": "nosuch"}, "frontend=nosuch must be one of default, "),
        ((), {"frontend_conf": {"nosuch": 3}}, "frontend_conf=.* go with default: got"),
        ((), {"normalize": "nosuch"}, "normalize=nosuch must be one of global_mvn, ut"),
        (
            (),
            {"normalize": "utterance_mvn", "normalize_conf": {"nosuch": 1}},
            "normalize_conf=.* does not go with utterance_mvn: got an unexpected",
        ),
        (
            (),
            {"postencoder": "length_adaptor", "postencoder_conf": {"nosuch": 1}},
            "postencoder_conf=.* does not go with length_adaptor",
        ),
        (("--freeze_param", "encodr"), {}, "no encodr is in the model"),
        (("--freeze_param", "schedule"), {}, "must be without the schedule"),
        (("--freeze_param", "encoder", "ctc"), {}, "must be less than all of the mod"),
        (("--init_param", "missing.pth"), {}, "checkpoint missing.pth does not exist"),
        (("--model_conf", "sizes=[3,9]"), {}, r"\[3, 9\] must end with the full size"),
    ],
)
def test_a_training_that_cannot_be(tmp_path, arguments, changes, message):
    with pytest.raises(ConfigError, match=message):
        check(tmp_path, *arguments, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"family": {"selector": "local.mine.Selector"}},  # path.sh may know it
        {"arguments": ("--ngpu", "4", "--multiprocessing_distributed", "true")},
        {"audio": False},
        # Of what is not built, names are not known.
        {"arguments": ("--freeze_param", "frontend.upstream", "encoder.embed")},
        {"decoder": "whisper"},  # which would be fetched
        {"frontend": "s3prl", "preencoder": "linear", "normalize": "global_mvn"},
        {"family": {"sizes": None, "budgets": {"flops": [0.5, 1]}}, "audio": False},
    ],
    ids=str,
)
def test_what_can_be_trained(tmp_path, changes):
    changes = dict(changes)
    check(tmp_path, *changes.pop("arguments", ()), **changes)


def test_a_blank_of_another_name(tmp_path):
    conf = model_config()["model_conf"] | {"sym_blank": "<b>"}
    check(tmp_path, model_conf=conf)
