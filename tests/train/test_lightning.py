"""Training with ESPnet3 on the AN4 excerpt that comes with espnet."""

import os
import shutil
import stat
import sys
from importlib import resources
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("lightning")

from egs3.mini_an4.esp2_asr.dataset.builder import MiniAn4Builder  # noqa: E402
from espnet3.systems.base.training import train  # noqa: E402
from espnet3.utils.config_utils import load_and_merge_config  # noqa: E402
from lightning.pytorch.callbacks import Callback  # noqa: E402

import espnet_dynsize  # noqa: E402
from espnet_dynsize.core.errors import ConfigError  # noqa: E402
from espnet_dynsize.deploy.experiment import find_checkpoint  # noqa: E402
from espnet_dynsize.deploy.extract import extract  # noqa: E402
from espnet_dynsize.encoder.kinds import layer_kinds  # noqa: E402

EPOCHS = 6  # three of them joint
UPDATES = 2  # in an epoch
# ESPnet's data preparation wants this program.
SPH2PIPE = f"""#!{sys.executable}
import io, sys, soundfile
audio, rate = soundfile.read(sys.argv[-1], dtype="int16")
file = io.BytesIO()
soundfile.write(file, audio, rate, format="WAV")
sys.stdout.buffer.write(file.getvalue())
"""
CONFIG = f"""
task: espnet_dynsize.train.task.DynSizeASRTask
dataset:
  train:
    - data_src_args: {{split: train}}
  valid:
    - data_src_args: {{split: valid}}
  preprocessor:
    _target_: espnet2.train.preprocessor.CommonPreprocessor
    fs: 16000
    token_type: char
    token_list: ${{data_dir}}/tokens.txt
model:
  token_list: ${{data_dir}}/tokens.txt
  encoder: dynsize_conformer
  encoder_conf:
    output_size: 16
    attention_heads: 2
    linear_units: 16
    num_blocks: 2
    macaron_style: true
    rel_pos_type: latest
    cnn_module_kernel: 3
    input_layer: conv2d
    # Lightning does not restore the state of random numbers.
    dropout_rate: 0.0
    positional_dropout_rate: 0.0
  decoder:
  model: dynsize
  model_conf:
    ctc_weight: 1.0
    sizes: [3, 8]
    selector_conf: {{search_fraction: 0.5}}
  normalize: utterance_mvn
  normalize_conf: {{}}
  frontend: default
  frontend_conf: {{n_fft: 512, win_length: 400, hop_length: 160, n_mels: 20}}
scheduler:
  warmup_steps: 4
dataloader:
  train:
    iter_factory:
      batches: {{type: unsorted, batch_size: 2}}
trainer:
  max_epochs: {EPOCHS}
  log_every_n_steps: 1
  accelerator: cpu
  logger:
    - _target_: lightning.pytorch.loggers.CSVLogger
      save_dir: ${{exp_dir}}
  callbacks:
    - _target_: espnet_dynsize.train.lightning.SubnetScheduleCallback
      seed: 0
seed: 0
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """The mini_an4 recipe with its data prepared."""
    folder = tmp_path_factory.mktemp("espnet3") / "asr"
    source = resources.files("egs3.mini_an4.esp2_asr")
    with resources.as_file(source) as path:
        shutil.copytree(path, folder, ignore=shutil.ignore_patterns("__pycache__"))
    program = folder / "sph2pipe"
    program.write_text(SPH2PIPE)
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    path = os.environ["PATH"]
    os.environ["PATH"] = f"{folder}:{path}"
    try:
        MiniAn4Builder().prepare_source(folder)
        MiniAn4Builder().build(folder)
    finally:
        os.environ["PATH"] = path
    texts = {
        split: [line.split("\t")[2] for line in manifest.read_text().splitlines()]
        for split in ("train", "valid")
        if (manifest := folder / "data" / "manifest" / f"{split}.tsv")
    }
    letters = sorted(set("".join(texts["train"])) - {" "})
    tokens = ["<blank>", "<unk>", "<space>", *letters, "<sos/eos>"]
    (folder / "data" / "tokens.txt").write_text("\n".join(tokens) + "\n")
    for split, lines in texts.items():
        shapes = folder / "exp" / "stats" / split / "feats_shape"
        shapes.parent.mkdir(parents=True)
        shapes.write_text("".join(f"{i} 100,20\n" for i in range(len(lines))))
    return folder


class Stop(Callback):
    """Dies in the search, after the first epoch."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == 1 and batch_idx == 1:
            raise KeyError("killed")


class Started(Callback):
    """Notes the epoch with which a run starts."""

    epochs: list[int] = []

    def on_train_start(self, trainer, pl_module):
        self.epochs.append(trainer.current_epoch)


def one_cycle(optimizer, warmup_steps):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=100)


def with_callback(cls: type) -> dict:
    """The trainer's callbacks and one more."""
    callbacks = yaml.safe_load(CONFIG)["trainer"]["callbacks"]
    return {"callbacks": [*callbacks, {"_target_": f"{__name__}.{cls.__name__}"}]}


def run(recipe: Path, tag: str, monkeypatch, **changes) -> Path:
    monkeypatch.chdir(recipe)
    config = yaml.safe_load(CONFIG)
    for key, value in changes.items():
        config[key] = None if value is None else {**config.get(key, {}), **value}
    config["exp_dir"] = f"exp/{tag}"
    path = recipe / "conf" / f"{tag}.yaml"
    path.write_text(yaml.safe_dump(config))
    train(
        load_and_merge_config(
            path, config_name="training.yaml", default_package="egs3.TEMPLATE.esp2_asr"
        )
    )
    return recipe / "exp" / tag


def last_state(exp: Path) -> dict:
    checkpoint = torch.load(exp / "last.ckpt", weights_only=False)
    return checkpoint["state_dict"]


def test_trains_resumes_extracts_and_decodes(recipe, monkeypatch):
    exp = run(recipe, "whole", monkeypatch)
    whole = last_state(exp)
    assert whole["schedule.update"] == EPOCHS * UPDATES
    assert whole["schedule.selection.search_updates"] == EPOCHS * UPDATES // 2
    masks = whole["schedule.selection.fixed_masks"]
    assert masks.sum(dim=1).tolist() == [3, 8]
    # Only epochs of the joint phase count as best.
    best = sorted(p.name for p in exp.glob("epoch*.ckpt"))
    joint = {e: UPDATES * (e + 1) for e in (3, 4, 5)}
    assert best == [f"epoch{e}_step{s}_valid.loss.ckpt" for e, s in joint.items()]

    with pytest.raises(KeyError, match="killed"):
        run(recipe, "resumed", monkeypatch, trainer=with_callback(Stop))
    again = run(
        recipe,
        "resumed",
        monkeypatch,
        fit={"ckpt_path": "last"},
        trainer=with_callback(Started),
    )
    assert Started.epochs == [1]
    resumed = last_state(again)
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(resumed[name].nan_to_num(-1), value.nan_to_num(-1)), name

    # ESPnet3 leaves one average for each number of checkpoints.
    averages = sorted(path.name for path in exp.glob("*ave_*best.pth"))
    assert len(averages) == 2
    assert find_checkpoint(exp) == averages[-1]
    recogniser = espnet_dynsize.load(path=f"exp/{exp.name}", size=3)
    kept = [layer_kinds(block) for block in recogniser.asr_model.encoder.encoders]
    assert sum(map(len, kept)) == 3
    assert extract(exp, best[0], [8])[0].name == "8"
    shutil.rmtree(exp.with_name("whole_size8"))
    for extracted in extract(exp, "", []):
        recogniser = espnet_dynsize.load(extracted.directory, beam_size=1)
        assert len(recogniser.asr_model.encoder.layers) == 8
        ((text, *_),) = recogniser(torch.randn(16000))
        assert isinstance(text, str)


def test_a_sparse_network_trains_and_resumes(recipe, monkeypatch):
    """Twelve updates; mutations at 2, 4 and 6, of which the last one is final."""
    mest = dict(method="mest", target=0.5, mutation=[0.2, 0.1], stages=[0.3, 0.5])
    conf = dict(ctc_weight=1.0, sparsity=mest | {"interval": 1 / 6})
    model = {**yaml.safe_load(CONFIG)["model"], "model_conf": conf}
    exp = run(recipe, "mest", monkeypatch, model=model)
    whole = last_state(exp)
    assert whole["schedule.sparsity.ready"] == 1
    assert whole["schedule.sparsity.changes"] == 3
    stop = with_callback(Stop)
    with pytest.raises(KeyError, match="killed"):
        run(recipe, "mest_resumed", monkeypatch, model=model, trainer=stop)
    again = run(
        recipe, "mest_resumed", monkeypatch, model=model, fit={"ckpt_path": "last"}
    )
    resumed = last_state(again)
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(resumed[name].nan_to_num(-1), value.nan_to_num(-1)), name
    (cut,) = extract(exp, "", [])
    assert cut.directory.name == "mest_sparsity50"


def test_another_family_is_not_resumed(recipe, monkeypatch):
    exp = run(recipe, "family", monkeypatch, trainer={"max_epochs": 3})
    conf = dict(yaml.safe_load(CONFIG)["model"]["model_conf"])
    conf["selector_conf"] = {"search_fraction": 0.4}
    with pytest.raises(ConfigError, match="another selector_conf than"):
        run(
            recipe,
            "family",
            monkeypatch,
            model={"model_conf": conf},
            fit={"ckpt_path": "last"},
        )
    for change in ({"weight_decay": 0.0}, {"_target_": "torch.optim.NAdam"}):
        with pytest.raises(ConfigError, match="was written with optimizer={.*, not {"):
            run(
                recipe,
                "family",
                monkeypatch,
                optimizer=change,
                fit={"ckpt_path": "last"},
            )
    # More epochs are no other run, and its search stays as long as it was.
    search = last_state(exp)["schedule.selection.search_updates"]
    assert search == 3 * UPDATES // 2
    more = dict(trainer={"max_epochs": 5}, fit={"ckpt_path": "last"})
    states = last_state(run(recipe, "family", monkeypatch, **more))
    assert states["schedule.update"] == 5 * UPDATES
    assert states["schedule.selection.search_updates"] == search


def test_a_refused_run_leaves_the_one_that_is_there(recipe, monkeypatch):
    exp = run(recipe, "kept", monkeypatch, trainer={"max_epochs": 3})
    before = (exp / "config.yaml").read_bytes()
    files = sorted(path.name for path in exp.iterdir())
    conf = yaml.safe_load(CONFIG)["model"]
    # Some of its weights are not in the checkpoint.
    three = dict(encoder_conf={**conf["encoder_conf"], "num_blocks": 3})
    other = dict(
        model={**three, "model_conf": {**conf["model_conf"], "sizes": [3, 12]}}
    )
    last = dict(fit={"ckpt_path": "last"})
    sized = dict(model={"model_conf": {**conf["model_conf"], "subnet": 3}})
    for message, changes in {
        "does not fit the config: .* another": other | last,
        "of another run, which would be mixed": {},
        "subnet=3 must be left out of a training config": sized | last,
    }.items():
        with pytest.raises(ConfigError, match=message):
            run(recipe, "kept", monkeypatch, **changes)
        assert (exp / "config.yaml").read_bytes() == before
    # Lightning refuses fewer epochs itself.
    with pytest.raises(Exception, match="max_epochs=1"):
        run(recipe, "kept", monkeypatch, trainer={"max_epochs": 1}, **last)
    assert (exp / "config.yaml").read_bytes() == before
    assert sorted(path.name for path in exp.iterdir()) == files


@pytest.mark.parametrize(
    "frozen, message",
    [
        (["schedule"], "must be without the schedule"),
        (["encoder", "ctc"], "must be less than all of the model"),
        (["encodr"], "no encodr is in the model"),
    ],
    ids=str,
)
def test_what_is_frozen_is_checked(recipe, monkeypatch, frozen, message):
    with pytest.raises(ConfigError, match=f"freeze_param=.* {message}"):
        run(recipe, "frozen", monkeypatch, model={"freeze_param": frozen})


def test_several_optimizers_are_refused(recipe, monkeypatch):
    optimizer = {"optimizer": {"_target_": "torch.optim.Adam", "lr": 1e-3}}
    scheduler = {"scheduler": {"_target_": f"{__name__}.one_cycle", "warmup_steps": 1}}
    with pytest.raises(ConfigError, match="optimizers=.* must be left out for a fam"):
        run(
            recipe,
            "named",
            monkeypatch,
            optimizer=None,
            scheduler=None,
            optimizers={"all": {**optimizer, "params": ""}},
            schedulers={"all": scheduler},
            trainer={"gradient_clip_val": None},
        )


def test_early_stopping_waits_for_the_joint_phase(recipe, monkeypatch):
    """No loss gets better with so high a learning rate, so patience ends the run."""
    callbacks = yaml.safe_load(CONFIG)["trainer"]["callbacks"]
    stopping = {
        "_target_": "lightning.pytorch.callbacks.EarlyStopping",
        **dict(monitor="valid/loss", patience=1, min_delta=1e6, check_finite=False),
    }
    trainer = {"callbacks": [*callbacks, stopping]}
    states = last_state(run(recipe, "stopped", monkeypatch, trainer=trainer))
    # Three epochs of search, the first joint one, and one that is not better
    assert states["schedule.update"] == (3 + 2) * UPDATES


def test_a_scheduler_that_undoes_the_scores_rate_is_refused(recipe, monkeypatch):
    conf = dict(yaml.safe_load(CONFIG)["model"]["model_conf"])
    conf["selector_conf"] = {"search_fraction": 0.5, "score_lr": 2.0}
    with pytest.raises(ConfigError, match="score_lr=2.0 must be 1 with this"):
        run(
            recipe,
            "cycle",
            monkeypatch,
            model={"model_conf": conf},
            scheduler={"_target_": f"{__name__}.one_cycle"},
        )


def test_without_the_callback_nothing_trains(recipe, monkeypatch):
    with pytest.raises(ConfigError, match="the callback SubnetScheduleCallback"):
        run(recipe, "alone", monkeypatch, trainer={"callbacks": []})


def test_an_unknown_option_is_refused(recipe, monkeypatch):
    conf = dict(yaml.safe_load(CONFIG)["model"]["model_conf"], size=[3, 8])
    with pytest.raises(ConfigError, match="model_conf: size=.* did you mean sizes"):
        run(recipe, "unknown", monkeypatch, model={"model_conf": conf})


def test_scores_have_their_own_rate_and_no_weight_decay(recipe, monkeypatch):
    """Weight decay alone moves the weights, and leaves the scores where they were."""
    conf = dict(yaml.safe_load(CONFIG)["model"]["model_conf"])
    conf["selector_conf"] = {"search_fraction": 0.5, "score_lr": 2.0}
    exp = run(
        recipe,
        "decay",
        monkeypatch,
        model={"model_conf": conf},
        optimizer={"_target_": "torch.optim.AdamW", "lr": 1e-3, "weight_decay": 0.5},
    )
    (optimizer,) = torch.load(exp / "last.ckpt", weights_only=False)["optimizer_states"]
    weights, scores = optimizer["param_groups"]
    assert (weights["weight_decay"], scores["weight_decay"]) == (0.5, 0.0)
    assert scores["lr"] == pytest.approx(2 * weights["lr"])
    assert len(scores["params"]) == 1


def test_ddp_must_look_for_unused_parameters(recipe, monkeypatch):
    message = "strategy must be ddp_find_unused_parameters_true"
    with pytest.raises(ConfigError, match=message):
        run(recipe, "ddp", monkeypatch, trainer={"strategy": "ddp"})


def test_a_stock_model_is_refused(recipe, monkeypatch):
    stock = {"encoder": "conformer", "model": "espnet"}
    stock["model_conf"] = {"ctc_weight": 1.0}
    with pytest.raises(ConfigError, match="needs model: dynsize"):
        run(recipe, "stock", monkeypatch, model=stock)
