"""The report of several models: table, csv and pictures in one folder."""

import os
from collections.abc import Sequence
from pathlib import Path

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.files import check_replaceable, write_text
from espnet_dynsize.report.plots import layers_figure, save, wer_figure
from espnet_dynsize.report.table import collect, csv_text, markdown

TABLE, NUMBERS, WER, LAYERS = "report.md", "report.csv", "wer.png", "layers.png"


def write_report(
    folders: Sequence[Path],
    model_file: str = "",
    output_dir: Path | None = None,
    audio: Sequence[Path] = (),
) -> Path:
    """Print the table and write it, with its pictures, to `output_dir`.

    Args:
        folders: Folders of models.
        model_file: Checkpoint in each; empty: see `find_checkpoint`.
        output_dir: Where to write; None for `report/` beside the first folder.
        audio: Files on which the recognisers are timed; without any, only the encoders
            are, on noise.

    Returns:
        The folder.

    Raises:
        ConfigError: a folder cannot be reported, or an output is somebody else's.
    """
    output_dir = Path(output_dir or Path(folders[0]).resolve().parent / "report")
    check_output(output_dir)
    rows, remarks = collect([Path(folder) for folder in folders], model_file, audio)
    text = "\n".join([markdown(rows), *(f"{remark}\n" for remark in remarks)])
    print(text)
    written = [output_dir / name for name in (TABLE, NUMBERS, LAYERS)]
    write_text(output_dir / TABLE, text)
    write_text(output_dir / NUMBERS, csv_text(rows))
    save(layers_figure(rows), output_dir / LAYERS)
    figure = wer_figure(rows)
    if figure is None:
        # One of an earlier report would show what the table no longer has.
        (output_dir / WER).unlink(missing_ok=True)
    else:
        save(figure, output_dir / WER)
        written.append(output_dir / WER)
    print("written:", *written)
    return output_dir


def check_output(output_dir: Path) -> None:
    """Refuse, before any work, a folder in which the report cannot be written.

    Raises:
        ConfigError: it is a file, may not be written, or has a file with a name of the
            report's that is somebody else's.
    """
    above = (output_dir, *output_dir.parents)
    there = next(path for path in above if path.exists() or path.is_symlink())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(
            f"output_dir={output_dir} must be a folder that can be written, but "
            f"{there} is {'none' if there.is_dir() else 'a file'}."
        )
    check_replaceable(output_dir / name for name in (TABLE, NUMBERS, WER, LAYERS))
