"""How much do frames differ in what the encoder gives, in the first epochs?

    python benchmarks/encoder_spread.py --corpus_dir DIR

A Conformer of 6 blocks, seed 1 of fold 0, with either start of the CTC layer (see
plateau.py): the variance of the encoder's outputs over all frames of 40 dev utterances
as a share of their mean square. Where it is near 0, every frame gives the same.
"""

import argparse
import json
import logging
import platform
from pathlib import Path

import soundfile
import torch
from an4_methods import CONF
from blanks import write_bias
from folds import prepared
from plateau import COMMIT

from espnet_dynsize.core.process import end_on_signals
from espnet_dynsize.demo.stages import Experiment
from espnet_dynsize.deploy.experiment import load_model

HERE = Path(__file__).resolve().parent
ROWS = HERE / "results" / "encoder_spread.jsonl"
EPOCHS, UTTERANCES, FOLD = 5, 40, 0


def train(experiment: Experiment, start: str) -> Path:
    options = ["--seed", "1", "--max_epoch", str(EPOCHS), "--encoder_conf"]
    options += ["num_blocks=6", "--keep_nbest_models", str(EPOCHS)]  # all of them
    if start == "blanks":
        options += ["--init_param", str(write_bias(experiment))]
    return experiment.train(CONF / "train_asr_conformer.yaml", start, options)


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
    args = parser.parse_args()
    end_on_signals()
    logging.disable(logging.WARNING)
    experiment = prepared(args.corpus_dir, args.exp, FOLD)
    rows = []
    for start in ("random", "blanks"):
        folder = train(experiment, start)
        epochs = range(1, EPOCHS + 1)
        shares = [round(spread(folder, e, experiment.data["valid"]), 3) for e in epochs]
        row = dict(start=start, seed=1, fold=FOLD, spread=shares, commit=COMMIT)
        rows.append(row | {"machine": f"{platform.machine()} CPU, one thread"})
    ROWS.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(ROWS.read_text())


if __name__ == "__main__":
    main()
