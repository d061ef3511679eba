"""How much do frames differ in what the encoder gives, in the first epochs?

    python benchmarks/encoder_spread.py --corpus_dir DIR [--folds 0] [--seeds 1]

A Conformer of 6 blocks, with either start of the CTC layer (see
plateau.py): the variance of the encoder's outputs over all frames of 40 dev utterances
as a share of their mean square. Where it is near 0, every frame gives the same.
"""

import argparse
import json
import logging
import platform
from itertools import product
from pathlib import Path

import soundfile
import torch
from an4_methods import CONF
from blanks import write_bias
from folds import add_folds, prepared
from plateau import COMMIT

from espnet_dynsize.core.process import end_on_signals
from espnet_dynsize.demo.stages import Experiment
from espnet_dynsize.deploy.experiment import load_model

HERE = Path(__file__).resolve().parent
ROWS = HERE / "results" / "encoder_spread.jsonl"
EPOCHS, UTTERANCES = 5, 40


def train(experiment: Experiment, start: str, seed: int) -> Path:
    options = ["--seed", str(seed), "--max_epoch", str(EPOCHS), "--encoder_conf"]
    options += ["num_blocks=6", "--keep_nbest_models", str(EPOCHS)]  # all of them
    if start == "blanks":
        options += ["--init_param", str(write_bias(experiment))]
    return experiment.train(
        CONF / "train_asr_conformer.yaml", f"{start}{seed}", options
    )


@torch.no_grad()
def spread(folder: Path, epoch: int, data: Path) -> float:
    model, _ = load_model(folder, f"{epoch}epoch.pth")
    outputs = []
    for line in (data / "wav.scp").read_text().splitlines()[:UTTERANCES]:
        audio, _ = soundfile.read(line.split()[1], dtype="float32")
        speech = torch.tensor(audio)[None]
        outputs.append(model.encode(speech, torch.tensor([len(audio)]))[0][0])
    frames = torch.cat(outputs)
    return float(frames.var(dim=0).sum() / (frames**2).mean(dim=0).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus_dir", type=Path, required=True, help="folder of AN4")
    parser.add_argument("--exp", type=Path, default=HERE / "exp" / "encoder_spread")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    add_folds(parser, ["0"])
    args = parser.parse_args()
    end_on_signals()
    logging.disable(logging.WARNING)
    rows, epochs = [], range(1, EPOCHS + 1)
    for fold, seed in product(args.folds, args.seeds):
        experiment = prepared(args.corpus_dir, args.exp, fold)
        dev = experiment.data["valid"]
        for start in ("random", "blanks"):
            folder = train(experiment, start, seed)
            shares = [round(spread(folder, epoch, dev), 3) for epoch in epochs]
            row = dict(start=start, seed=seed, fold=fold, spread=shares, commit=COMMIT)
            rows.append(row | {"machine": f"{platform.machine()} CPU, one thread"})
    ROWS.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(ROWS.read_text())


if __name__ == "__main__":
    main()
