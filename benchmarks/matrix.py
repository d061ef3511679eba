"""Every encoder with every decoder, trained by ESPnet2 and by ESPnet3 on AN4.

    python benchmarks/matrix.py --corpus_dir DIR [--epochs 4]

Each cell trains a supernet of two sizes for a few epochs, half of them search, is cut
to both sizes and decodes the test set. Finished cells are kept. results/matrix.md has
each size's validation loss after the first and the last epoch, and its WER, which after
so few epochs says no more than that the path works.
"""

import argparse
import itertools
import json
import logging
import platform
from pathlib import Path

import soundfile
import yaml
from an4_methods import CONF
from espnet3_run import columns, train_espnet3
from folds import OFFICIAL, prepared

import espnet_dynsize
from espnet_dynsize.core.process import end_on_signals
from espnet_dynsize.core.yaml_base import load_config
from espnet_dynsize.demo.stages import Experiment, model_file
from espnet_dynsize.deploy.extract import extract_changed
from espnet_dynsize.report.scores import error_rate

HERE = Path(__file__).resolve().parent
ROWS = HERE / "results" / "matrix.jsonl"
SHAPE = dict(
    input_layer="conv2d",
    output_size=48,
    attention_heads=4,
    linear_units=192,
)
SIZES = {"conformer": [6, 12], "e_branchformer": [4, 9], "transformer": [6, 12]}
ENCODERS = {
    "conformer": dict(
        num_blocks=3,
        macaron_style=True,
        rel_pos_type="latest",
        cnn_module_kernel=15,
    ),
    "e_branchformer": dict(
        num_blocks=3,
        use_ffn=True,
        macaron_ffn=True,
        cgmlp_linear_units=192,
        cgmlp_conv_kernel=15,
    ),
    "transformer": dict(num_blocks=6),
}
ATTENTION = dict(attention_heads=4, linear_units=96, num_blocks=1)
DECODERS = {
    "CTC": dict(decoder=None, model_conf={"ctc_weight": 1.0}),
    "CTC + attention": dict(
        decoder="transformer", decoder_conf=ATTENTION, model_conf={"ctc_weight": 0.3}
    ),
    "transducer": dict(
        decoder="transducer",
        decoder_conf={"rnn_type": "lstm", "num_layers": 1, "hidden_size": 48},
        joint_net_conf={"joint_space_size": 48},
        # No beam search of the whole validation set after every epoch
        model_conf={"ctc_weight": 0.3, "report_cer": False, "report_wer": False},
    ),
}
DECODING = {
    "CTC": dict(beam_size=1),
    "CTC + attention": dict(beam_size=2, ctc_weight=0.3),
    "transducer": dict(beam_size=1),
}


def config_of(encoder: str, decoder: str, epochs: int) -> dict:
    """The recipe's config with another encoder and decoder."""
    family = dict(sizes=SIZES[encoder], selector_conf={"search_fraction": 0.5})
    config = {**load_config(CONF / "train_asr_dynsize.yaml"), **DECODERS[decoder]}
    return config | dict(
        encoder=f"dynsize_{encoder}",
        encoder_conf={**SHAPE, **ENCODERS[encoder]},
        model="dynsize",
        model_conf={**family, **config["model_conf"]},
        max_epoch=epochs,
        best_model_criterion=[["valid", "loss", "min"]],
        keep_nbest_models=1,
        scheduler_conf={"warmup_steps": 100},
    )


def train_espnet2(experiment: Experiment, tag: str, config: dict):
    """Folder, checkpoint and each epoch's validation statistics."""
    path = experiment.exp / f"{tag}.yaml"
    path.write_text(yaml.safe_dump(config))
    folder = experiment.train(path, tag)
    lines = (folder / "train.log").read_text().splitlines()
    valid = [line.split("[valid]")[1] for line in lines if "epoch results:" in line]
    epochs = [dict(pair.split("=") for pair in _pairs(line)) for line in valid]
    return folder, model_file(folder), epochs


def _pairs(line: str) -> list[str]:
    return [pair for pair in line.strip().split(", ") if pair.count("=") == 1]


FRAMEWORKS = {"ESPnet2": train_espnet2, "ESPnet3": train_espnet3}


def run(experiment: Experiment, framework: str, encoder: str, decoder: str, epochs):
    """Train, cut and decode a cell; returns a row for each size."""
    tag = f"{framework}_{encoder}_{decoder}".replace(" ", "").replace("+", "_")
    config = config_of(encoder, decoder, epochs)
    folder, checkpoint, losses = FRAMEWORKS[framework](experiment, tag, config)
    rows = []
    targets = list(extract_changed(folder, checkpoint).values())
    for size, target in zip(SIZES[encoder], targets):
        key = f"loss_{size}"
        rows.append(
            dict(
                framework=framework,
                encoder=encoder,
                decoder=decoder,
                size=size,
                epochs=epochs,
                first_loss=float(losses[0][key]),
                last_loss=float(losses[-1][key]),
                wer=round(100 * wer(experiment, target, DECODING[decoder]), 1),
                machine=f"{platform.machine()} CPU",
            )
        )
    return rows


def wer(experiment: Experiment, folder: Path, options: dict) -> float:
    """Word error rate of the test set."""
    recogniser = espnet_dynsize.load(folder, **options)
    hypotheses = {
        name: recogniser(soundfile.read(path)[0])[0][0] or ""
        for name, path in columns(experiment.data["test"] / "wav.scp")
    }
    references = dict(columns(experiment.data["test"] / "text"))
    return error_rate(references, hypotheses, folder.name)


def read_rows() -> dict[tuple, list[dict]]:
    cells: dict[tuple, list[dict]] = {}
    for line in ROWS.read_text().splitlines() if ROWS.exists() else []:
        row = json.loads(line)
        cell = (row["framework"], row["encoder"], row["decoder"])
        cells.setdefault(cell, []).append(row)
    return cells


def markdown(cells: dict[tuple, list[dict]]) -> str:
    lines = [
        "| encoder | decoder | trained by | layers | loss after the first epoch | "
        "after the last | WER % |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for (framework, encoder, decoder), rows in sorted(cells.items(), key=_order):
        for row in rows:
            lines.append(
                f"| {encoder} | {decoder} | {framework} | {row['size']} | "
                f"{row['first_loss']:.1f} | {row['last_loss']:.1f} | {row['wer']:.1f} |"
            )
    return "\n".join(lines) + "\n"


def _order(item) -> tuple:
    framework, encoder, decoder = item[0]
    places = (list(ENCODERS).index(encoder), list(DECODERS).index(decoder))
    return (*places, framework)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus_dir", type=Path, required=True, help="folder of AN4")
    parser.add_argument("--exp", type=Path, default=HERE / "exp" / "matrix")
    parser.add_argument(
        "--epochs",
        type=int,
        default=4,
        help="3 or more: ESPnet3's average needs two joint epochs",
    )
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    end_on_signals()
    logging.disable(logging.WARNING)
    exp = args.exp.resolve()
    experiment = prepared(args.corpus_dir, exp, OFFICIAL, args.threads)
    cells = read_rows()
    for encoder in ENCODERS:
        for decoder in DECODERS:
            for framework in FRAMEWORKS:
                cell = (framework, encoder, decoder)
                if cell not in cells:
                    cells[cell] = run(experiment, *cell, args.epochs)
                    print(markdown({cell: cells[cell]}), flush=True)
                rows = itertools.chain(*cells.values())
                ROWS.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ROWS.with_suffix(".md").write_text(markdown(cells))
    print(markdown(cells))


if __name__ == "__main__":
    main()
