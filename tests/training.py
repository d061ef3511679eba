"""A tiny training through ESPnet's own command-line entry."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import TOKENS, encoder_conf, split

import espnet_dynsize
from espnet_dynsize.train.model import DynSizeASRModel
from espnet_dynsize.train.task import DynSizeASRTask

UTTERANCES = 12


def write_data(folder: Path, size: int = 5) -> Path:
    """Random features [frames, 5] and token ids, with the files that training wants."""
    folder.mkdir(parents=True, exist_ok=True)
    dice = np.random.RandomState(0)
    feats, texts, shapes = [], [], []
    for i in range(UTTERANCES):
        frames = 16 + i
        np.save(folder / f"{i}.npy", dice.randn(frames, size).astype(np.float32))
        feats.append(f"utt{i:02} {folder / f'{i}.npy'}")
        texts.append(f"utt{i:02} {' '.join(map(str, dice.randint(2, 5, 3)))}")
        shapes.append(f"utt{i:02} {frames},{size}")
    for name, lines in (("feats.scp", feats), ("text", texts), ("shape", shapes)):
        (folder / name).write_text("\n".join(lines) + "\n")
    (folder / "tokens.txt").write_text("\n".join(TOKENS) + "\n")
    return folder


def train_arguments(
    data: Path, exp: Path, extra: Sequence[str] = (), **changes
) -> list[str]:
    """Arguments of `asr_train`: 4 batches of 3 utterances an epoch."""
    defaults = dict(
        sizes=[3, 5, 8],
        selector_conf={"search_updates": 6},
        conv_norm="layer_norm",  # batch statistics are each rank's own
    )
    encoder, family = split({**defaults, **changes})
    config = dict(
        encoder="dynsize_conformer",
        encoder_conf=encoder_conf(**encoder),
        model="dynsize",
        model_conf={"ctc_weight": 1.0, **family},
    )
    exp.parent.mkdir(parents=True, exist_ok=True)
    path = exp.parent / f"{exp.name}.yaml"
    path.write_text(yaml.safe_dump(config))
    files = [
        f"--{split}_data_path_and_name_and_type={data / name},{key},{kind}"
        for split in ("train", "valid")
        for name, key, kind in (
            ("feats.scp", "speech", "npy"),
            ("text", "text", "text_int"),
        )
    ]
    shapes = [f"--{split}_shape_file={data / 'shape'}" for split in ("train", "valid")]
    return [
        f"--config={path}",
        f"--output_dir={exp}",
        f"--token_list={data / 'tokens.txt'}",
        *("--input_size=5", "--use_preprocessor=false", "--num_workers=0"),
        *("--batch_type=sorted", "--batch_size=3", "--optim=adam"),
        *("--optim_conf", "lr=0.01", "--best_model_criterion=valid,loss,min"),
        *("--keep_nbest_models=2", "--num_att_plot=0", "--use_matplotlib=false"),
        *("--use_tensorboard=false", "--resume=true", "--seed=3"),
        *files,
        *shapes,
        *extra,
    ]


def train(data, exp, epochs, **changes):
    return run(data, exp, f"--max_epoch={epochs}", **changes)


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name].nan_to_num(-1), theirs[name].nan_to_num(-1)), name


class Killed(Exception):
    pass


def run(data, exp, *extra, **changes):
    """Train with more options of `asr_train`; returns the checkpoint."""
    espnet_dynsize.register()
    DynSizeASRTask.main(cmd=train_arguments(data, exp, extra, **changes))
    return torch.load(exp / "checkpoint.pth", weights_only=False)


def train_killed(data, exp, epochs, kills, monkeypatch, **changes):
    """A run that is killed after these updates, and goes on each time."""
    for update in kills:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(DynSizeASRModel, "forward", until(update))
            train(data, exp, epochs, **changes)
    return train(data, exp, epochs, **changes)


def step_through(model, updates, data):
    """Train a model for so many updates with Adam; returns the optimizer."""
    model.begin_training(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    optimizer.register_step_post_hook(lambda o, *_: model.schedule.after_step(o))
    for _ in range(updates):
        model.begin_update(0)
        optimizer.zero_grad()
        model(**data)[0].sum().backward()
        optimizer.step()
    return optimizer


def until(update):
    """A `forward` that is killed after so many updates."""
    forward = DynSizeASRModel.forward

    def limited(model, *args, **kwargs):
        if model.training and model.schedule.now > update:
            raise Killed
        return forward(model, *args, **kwargs)

    return limited


SCHEDULERS = {
    "warmuplr": {"warmup_steps": 10},
    "piecewiselinearwarmuplr": {
        "warmup_steps_list": [0, 10],
        "warmup_lr_list": [0.0, 0.01],
    },
}


def with_scheduler(data, exp, name):
    conf = [f"{key}={value}" for key, value in SCHEDULERS[name].items()]
    options = [a for c in conf for a in ("--scheduler_conf", c)]
    extra = ["--max_epoch=2", f"--scheduler={name}", *options]
    selector = {"search_updates": 6, "score_lr": 3.0}
    espnet_dynsize.register()
    DynSizeASRTask.main(cmd=train_arguments(data, exp, extra, selector_conf=selector))
