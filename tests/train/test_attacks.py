"""Checkpoints of strangers, or of other runs, where a training goes on."""

import pytest
import torch
from training import train_arguments, write_data

import espnet_dynsize
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.train.task import DynSizeASRTask

WHOLE = dict(model={}, reporter={}, optimizers=[], schedulers=[])


@pytest.mark.parametrize(
    "value, message",
    [
        ([1], "checkpoint.pth is not one of ESPnet's trainer"),
        ("text", "checkpoint.pth is not one of ESPnet's trainer"),
        ({"encoder.weight": torch.ones(2)}, "is not one of ESPnet's trainer"),
        (WHOLE | {"model": 5}, "checkpoint.pth must hold a state dict, not int"),
        (
            WHOLE | {"model": {3: 1}},
            "must hold dense tensors by name, .*; 3 is not",
        ),
        (WHOLE, "checkpoint.pth cannot go on with this config: .* is only in the m"),
        (None, "checkpoint.pth does not exist"),
    ],
    ids=["list", "text", "weights", "number", "int keys", "empty", "folder"],
)
def test_checkpoints_that_do_not_go_on(tmp_path, value, message):
    """One sentence, and the folder is as it was."""
    espnet_dynsize.register()
    exp = tmp_path / "exp"
    exp.mkdir()
    (exp / "1epoch.pth").write_bytes(b"model")
    (exp / "config.yaml").write_text("old")
    for name in ("checkpoint.pth", "checkpoint.previous.pth"):
        if value is None:
            (exp / name).mkdir()
        else:
            torch.save(value, exp / name)
    arguments = train_arguments(write_data(tmp_path / "data"), exp, ["--max_epoch=2"])
    with pytest.raises(ConfigError, match=message):
        DynSizeASRTask.main(cmd=arguments)
    assert (exp / "config.yaml").read_text() == "old"
    assert (exp / "1epoch.pth").read_bytes() == b"model"
