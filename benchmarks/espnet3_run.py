"""One training with ESPnet3, on the data that the ESPnet2 stages have prepared."""

import csv
import logging
import multiprocessing
import shutil
from importlib import resources
from pathlib import Path

import yaml

from espnet_dynsize.demo.stages import Experiment
from espnet_dynsize.deploy.experiment import find_checkpoint

RECIPE = "egs3.mini_an4.esp2_asr"
# Training options of ESPnet2 that describe the model
MODEL_KEYS = [
    "encoder",
    "encoder_conf",
    "decoder",
    "decoder_conf",
    "joint_net_conf",
    "model",
    "model_conf",
    "frontend",
    "frontend_conf",
    "specaug",
    "specaug_conf",
]


def train_espnet3(experiment: Experiment, tag: str, config: dict):
    """Folder, checkpoint and each epoch's validation statistics."""
    folder = experiment.exp / tag
    if not list(folder.glob("*.ave*.pth")):
        process = multiprocessing.get_context("spawn").Process(
            target=_fit, args=(experiment, folder, config)
        )
        process.start()
        process.join()
        if process.exitcode != 0:
            raise RuntimeError(f"{tag} failed; its messages are above.")
    (metrics,) = folder.glob("lightning_logs/version_*/metrics.csv")
    with metrics.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("valid/loss")]
    epochs = [{k.removeprefix("valid/"): v for k, v in row.items()} for row in rows]
    return folder, find_checkpoint(folder, ""), epochs


def _fit(experiment: Experiment, folder: Path, config: dict) -> None:
    from espnet3.systems.base.training import train
    from espnet3.utils.config_utils import load_and_merge_config

    logging.disable(logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "training.yaml"
    path.write_text(yaml.safe_dump(_config(experiment, folder, config)))
    train(
        load_and_merge_config(
            path, config_name="training.yaml", default_package="egs3.TEMPLATE.esp2_asr"
        )
    )


def _config(experiment: Experiment, folder: Path, config: dict) -> dict:
    recipe = _prepare(experiment)
    stats = experiment.stats / "train" / "feats_stats.npz"
    model = {key: config[key] for key in MODEL_KEYS if key in config}
    model |= dict(token_list=str(experiment.tokens), normalize="global_mvn")
    model |= dict(normalize_conf={"stats_file": str(stats)})
    callback = {
        "_target_": "espnet_dynsize.train.lightning.SubnetScheduleCallback",
        "seed": 0,
    }
    logger = {"_target_": "lightning.pytorch.loggers.CSVLogger"}
    return dict(
        task="espnet_dynsize.train.task.DynSizeASRTask",
        recipe_dir=str(recipe),
        exp_dir=str(folder),
        stats_dir=str(recipe / "stats"),
        dataset=dict(
            train=[{"data_src_args": {"split": "train"}}],
            valid=[{"data_src_args": {"split": "valid"}}],
            preprocessor=dict(
                _target_="espnet2.train.preprocessor.CommonPreprocessor",
                fs=16000,
                token_type=experiment.token_type,
                token_list=str(experiment.tokens),
            ),
        ),
        model=model,
        optimizer={"lr": config["optim_conf"]["lr"]},
        scheduler=config["scheduler_conf"],
        best_model_criterion=[["valid/loss", 1, "min"]],
        dataloader={
            "train": {
                "iter_factory": {
                    "batches": {"type": "numel", "batch_bins": config["batch_bins"]}
                }
            }
        },
        trainer=dict(
            max_epochs=config["max_epoch"],
            accelerator="cpu",
            logger=[{**logger, "save_dir": str(folder)}],
            callbacks=[callback],
        ),
        seed=0,
    )


def _prepare(experiment: Experiment) -> Path:
    """ESPnet3's small AN4 recipe with the whole corpus in its manifests."""
    folder = experiment.exp / "espnet3_recipe"
    if folder.exists():
        return folder
    with resources.as_file(resources.files(RECIPE)) as source:
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("etc", "wav"):  # "the source is prepared"
        (folder / "downloads" / "an4" / part).mkdir(parents=True)
    for split, data in experiment.data.items():
        texts = (data / "text").read_text().splitlines()
        paths = dict(
            line.split() for line in (data / "wav.scp").read_text().splitlines()
        )
        texts = [line.split(maxsplit=1) for line in texts]
        manifest = folder / "data" / "manifest" / f"{split}.tsv"
        manifest.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{name}\t{paths[name]}\t{text}\n" for name, text in texts]
        manifest.write_text("".join(lines))
        if split == "test":
            continue
        samples = dict(columns(experiment.stats / split / "speech_shape"))
        shape = folder / "stats" / split / "feats_shape"
        shape.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{i} {samples[name]}\n" for i, (name, _) in enumerate(texts)]
        shape.write_text("".join(lines))
    return folder


def columns(path: Path) -> list[list[str]]:
    """The lines of a file in a data directory, as utterance and value."""
    return [line.split(maxsplit=1) for line in path.read_text().splitlines()]
