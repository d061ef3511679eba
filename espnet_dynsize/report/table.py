"""The table of a family: one row a model."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_dynsize.deploy.experiment import find_checkpoint, load_model
from espnet_dynsize.encoder.kinds import layer_kinds
from espnet_dynsize.report import measure
from espnet_dynsize.report.scores import Score, find_scores


@dataclass
class Row:
    """What is reported of one model."""

    name: str
    layers: int
    parameters: int
    flops: float  # per second of audio
    file_bytes: int
    rtf: float = float("nan")
    scores: dict[str, Score] = field(default_factory=dict)
    kept: list[list[str]] = field(default_factory=list)  # kinds kept in each block


def collect(
    folders: Sequence[Path], model_file: str, audio: Sequence[Path] = ()
) -> tuple[list[Row], str]:
    """Measure and score the models in `folders`, smallest first.

    Args:
        folders: Folders of models.
        model_file: Checkpoint in each; empty for the only `*.ave.pth`.
        audio: Files on which the recognisers are timed; without any, the encoders are.

    Returns:
        The rows, and a sentence that says what was timed.

    Raises:
        ConfigError: a folder holds no model that can be loaded.
    """
    rows, runs = [], []
    for folder in folders:
        checkpoint = find_checkpoint(folder, model_file)
        model, config = load_model(folder, checkpoint)
        run = measure.encoder_run(model, config)
        rows.append(_row(folder, checkpoint, model, run))
        if audio:
            run = measure.recogniser_run(folder, checkpoint, audio)
        runs.append(run)
    for row, rtf in zip(rows, measure.real_time_factors(runs)):
        row.rtf = rtf
    rows.sort(key=lambda row: (row.layers, row.parameters, row.name))
    return rows, _timing(audio, runs[0].seconds)


def _timing(audio: Sequence[Path], seconds: float) -> str:
    what = f"the encoder and a CTC output alone, on {seconds:.0f} s of noise"
    if audio:
        what = f"the whole recogniser, on {seconds:.1f} s of audio ({len(audio)} files)"
    return f"RTF: {what}; one CPU thread, median of {measure.REPEATS}."


def _row(folder: Path, checkpoint: str, model: ESPnetASRModel, run: measure.Run) -> Row:
    kept = [layer_kinds(block) for block in model.encoder.encoders]
    return Row(
        name=folder.name,
        layers=sum(map(len, kept)),
        parameters=measure.count_parameters(model),
        flops=measure.flops_per_second(run),
        file_bytes=(folder / checkpoint).stat().st_size,
        scores=find_scores(folder),
        kept=kept,
    )


def header_and_cells(rows: Sequence[Row]):
    """The table as a header and rows of strings."""
    sets = sorted({name for row in rows for name in row.scores})
    header = ["model", "layers", "parameters", "MFLOPs / s audio", "file MB", "RTF"]
    header += [f"{kind} {name} %" for name in sets for kind in ("WER", "CER")]
    return header, [_cells(row, sets) for row in rows]


def _cells(row: Row, sets: Sequence[str]) -> list[str]:
    cells = [
        row.name,
        str(row.layers),
        f"{row.parameters:,}",
        f"{row.flops / 1e6:.1f}",
        f"{row.file_bytes / 1e6:.2f}",
        f"{row.rtf:.4f}",
    ]
    for name in sets:
        score = row.scores.get(name)
        cells += ["–", "–"] if score is None else [f"{100 * v:.1f}" for v in score]
    return cells


def markdown(rows: Sequence[Row]) -> str:
    header, cells = header_and_cells(rows)
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def write_csv(rows: Sequence[Row], path: Path) -> None:
    header, cells = header_and_cells(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *cells])
