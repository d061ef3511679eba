"""The report of several models: table, csv and pictures in one folder."""

from collections.abc import Sequence
from pathlib import Path

from espnet_dynsize.report.plots import plot_layers, plot_wer
from espnet_dynsize.report.table import collect, markdown, write_csv


def write_report(
    folders: Sequence[Path],
    model_file: str = "",
    output_dir: Path | None = None,
    audio: Sequence[Path] = (),
) -> Path:
    """Print the table and write it, with its pictures, to `output_dir`.

    Args:
        folders: Folders of models.
        model_file: Checkpoint in each; empty for the only `*.ave.pth`.
        output_dir: Where to write; None for `report/` beside the first folder.
        audio: Files on which the recognisers are timed; without any, only the encoders
            are, on noise.

    Returns:
        The folder.
    """
    rows, timing = collect([Path(folder) for folder in folders], model_file, audio)
    output_dir = Path(output_dir or Path(folders[0]).resolve().parent / "report")
    output_dir.mkdir(parents=True, exist_ok=True)
    text = f"{markdown(rows)}\n{timing}\n"
    (output_dir / "report.md").write_text(text, encoding="utf-8")
    write_csv(rows, output_dir / "report.csv")
    plot_layers(rows, output_dir / "layers.png")
    pictures = [output_dir / "layers.png"]
    if plot_wer(rows, output_dir / "wer.png"):
        pictures.insert(0, output_dir / "wer.png")
    print(text)
    print("written:", *[output_dir / "report.md", output_dir / "report.csv", *pictures])
    return output_dir
