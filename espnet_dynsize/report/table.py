"""The table of a family: one row a model."""

import csv
import io
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from espnet2.asr.espnet_model import ESPnetASRModel
from tqdm import tqdm

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy.experiment import find_checkpoint, load_model
from espnet_dynsize.encoder.kinds import layer_kinds
from espnet_dynsize.encoder.reduced import remove_zeros
from espnet_dynsize.encoder.supernet import Supernet
from espnet_dynsize.report import measure
from espnet_dynsize.report.decodings import Decoding, Name, find_decodings, labels
from espnet_dynsize.report.scores import Score

MISSING = "–"
RATES = ("WER", "CER")


@dataclass
class Row:
    """What is reported of one model."""

    name: str
    layers: int
    parameters: int
    flops: float  # per second of audio
    file_bytes: int
    rtf: float = float("nan")
    scores: dict[Name, Score] = field(default_factory=dict)
    kept: list[list[str]] = field(default_factory=list)  # kinds kept in each block
    kept_weights: int = 0  # parameters without zeros of sparse matrices
    kept_flops: float = 0.0  # per second of audio, without products with such zeros


class Found(NamedTuple):
    """What is known of a model before it is loaded."""

    name: str
    folder: Path
    checkpoint: str
    decodings: dict[Name, Decoding]
    others: list[Path]  # decoded with another checkpoint


def collect(
    folders: Sequence[Path], model_file: str, audio: Sequence[Path] = ()
) -> tuple[list[Row], list[str]]:
    """Measure and score the models in `folders`, smallest first.

    Args:
        folders: Folders of models.
        model_file: Checkpoint in each; empty: see `find_checkpoint`.
        audio: Files on which the recognisers are timed; without any, the encoders are.

    Returns:
        The rows, and sentences: what was timed, and what is to be known of the scores.

    Raises:
        ConfigError: a folder holds no model that can be loaded, or what it has decoded
            cannot be scored. Nothing has been measured then.
    """
    for path in audio:
        if not Path(path).is_file():
            raise ConfigError(f"audio={path} must be an audio file.")
    models = find_models(folders, model_file)
    loaded = [_load(model, audio) for model in _shown(models, "loading")]
    rows = [_row(*parts) for parts in zip(models, *zip(*loaded))]
    runs = [timed for _, _, timed in loaded]
    for row, rtf in zip(rows, measure.real_time_factors(runs)):
        row.rtf = rtf
    rows.sort(key=lambda row: (row.layers, row.parameters, row.name))
    return rows, [_timing(audio, runs[0].seconds), *_remarks(models)]


def find_models(folders: Sequence[Path], model_file: str) -> list[Found]:
    """Find and score what is in the folders, each once, without loading a model.

    Raises:
        ConfigError: a folder, its checkpoint or its scores cannot be used.
    """
    # By name and by link it may be the same.
    paths = list({Path(folder).resolve(): Path(folder) for folder in folders}.values())
    for path in paths:
        _check_folder(path)
    names = [Path(os.path.abspath(path)).name for path in paths]
    often = Counter(names)
    models = []
    for path, name in zip(paths, names):
        checkpoint = find_checkpoint(path, model_file)
        decodings, others = find_decodings(path, checkpoint)
        name = name if often[name] == 1 else str(path)
        models.append(Found(name, path, checkpoint, decodings, others))
    return models


def _check_folder(path: Path) -> None:
    if not path.is_dir():
        raise ConfigError(
            f"{path} {'is a file' if path.exists() else 'does not exist'}: report "
            "needs the folders of trained models."
        )
    if path.name.startswith(".") and path.suffix == ".unfinished":
        raise ConfigError(f"{path} was left by a process that was killed; remove it.")


def _load(
    found: Found, audio: Sequence[Path]
) -> tuple[ESPnetASRModel, measure.Run, measure.Run]:
    """The model, the run whose FLOPs are counted, and the run that is timed."""
    try:
        model, config = load_model(found.folder, found.checkpoint)
        if not hasattr(model.encoder, "encoders"):
            raise ConfigError(
                f"encoder={config['encoder']} has no blocks whose layers could be "
                "counted; it must be a Conformer, E-Branchformer or Transformer."
            )
        # As it is opened for decoding
        if isinstance(model.encoder, Supernet):
            remove_zeros(model.encoder)
        run = measure.encoder_run(model, config)
        timed = run
        if audio:
            timed = measure.recogniser_run(found.folder, found.checkpoint, audio)
    except ConfigError as error:
        # In a row of folders, which one it is
        if str(found.folder) in str(error):
            raise
        raise ConfigError(f"{found.folder}: {error}") from error
    return model, run, timed


def _shown(models: Sequence[Found], what: str) -> Iterable[Found]:
    """The models, with progress where somebody looks."""
    return tqdm(models, desc=what, unit="model", disable=None, leave=False)


def _timing(audio: Sequence[Path], seconds: float) -> str:
    what = f"the encoder and a CTC output alone, on {seconds:.0f} s of noise"
    if audio:
        what = f"the whole recogniser, on {seconds:.1f} s of audio ({len(audio)} files)"
    return f"RTF: {what}; one CPU thread, median of {measure.REPEATS}."


def _remarks(models: Sequence[Found]) -> list[str]:
    """What the numbers alone do not tell."""
    remarks = []
    for model in models:
        remarks += [
            f"Warning: every hypothesis in {decoding.folder} is empty; look at its "
            "logs, or train for longer."
            for decoding in model.decodings.values()
            if decoding.all_empty
        ]
        remarks += [
            f"Left out: {folder}, decoded with another checkpoint than "
            f"{model.checkpoint}."
            for folder in model.others
        ]
    return remarks


def _row(
    found: Found, model: ESPnetASRModel, run: measure.Run, timed: measure.Run
) -> Row:
    # ESPnet's other task has its blocks in a module of their own.
    blocks = getattr(model.encoder.encoders, "blocks", model.encoder.encoders)
    kept = [layer_kinds(block) for block in blocks]
    flops = measure.flops_per_second(run)
    return Row(
        name=found.name,
        layers=sum(map(len, kept)),
        parameters=measure.count_parameters(model),
        flops=flops,
        kept_weights=measure.kept_weights(model),
        kept_flops=flops - measure.zero_flops_per_second(model, run),
        file_bytes=(found.folder / found.checkpoint).stat().st_size,
        scores={name: decoding.score for name, decoding in found.decodings.items()},
        kept=kept,
    )


def _columns(rows: Sequence[Row]) -> dict[Name, str]:
    return labels(name for row in rows for name in row.scores)


def _is_sparse(rows: Sequence[Row]) -> bool:
    """Whether the columns of what sparsity leaves are worth their place."""
    return any(row.kept_weights < row.parameters for row in rows)


def _header(rows: Sequence[Row]) -> list[str]:
    header = ["model", "layers", "parameters", "MFLOPs / s audio", "file MB", "RTF"]
    if _is_sparse(rows):
        header[3:3] = ["of them not zero"]
        header[5:5] = ["MFLOPs without zeros"]
    return header + [
        f"{kind} {label} %" for label in _columns(rows).values() for kind in RATES
    ]


def _rates(row: Row, names: Sequence[Name]) -> list[float]:
    """Per cent, NaN where the model has not decoded the set."""
    nothing = Score(math.nan, math.nan)
    return [100 * rate for name in names for rate in row.scores.get(name, nothing)]


def markdown(rows: Sequence[Row]) -> str:
    """The table to be read: rounded numbers."""
    header, names, sparse = _header(rows), list(_columns(rows)), _is_sparse(rows)
    cells = [
        [
            row.name,
            str(row.layers),
            f"{row.parameters:,}",
            *([f"{row.kept_weights:,}"] if sparse else []),
            f"{row.flops / 1e6:.1f}",
            *([f"{row.kept_flops / 1e6:.1f}"] if sparse else []),
            f"{row.file_bytes / 1e6:.2f}",
            _rounded(row.rtf, 4),
            *(_rounded(rate, 1) for rate in _rates(row, names)),
        ]
        for row in rows
    ]
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *cells]
    return "\n".join(map(markdown_line, lines)) + "\n"


def markdown_line(cells: Sequence[str]) -> str:
    """A row of a markdown table."""
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _rounded(number: float, digits: int) -> str:
    return MISSING if math.isnan(number) else f"{number:.{digits}f}"


def csv_text(rows: Sequence[Row]) -> str:
    """The same table to be computed with: whole numbers, empty where there is none."""
    names, sparse = list(_columns(rows)), _is_sparse(rows)
    lines = [
        [row.name, row.layers, row.parameters]
        + ([row.kept_weights] if sparse else [])
        + [row.flops / 1e6]
        + ([row.kept_flops / 1e6] if sparse else [])
        + [row.file_bytes / 1e6, row.rtf, *_rates(row, names)]
        for row in rows
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_header(rows))
    writer.writerows([["" if v != v else v for v in line] for line in lines])
    return text.getvalue()
