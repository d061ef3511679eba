"""`espnet-dynsize report`: compare models of several sizes."""

import argparse
import logging
from pathlib import Path


def add_parser(verbs) -> None:
    parser = verbs.add_parser(
        "report",
        help="size, cost and error rates of several models: table and pictures",
        description="Measure the models in the given folders and write report.md, "
        "report.csv, wer.png and layers.png. Error rates come from the folders "
        "<inference>/<test set>/score_wer that scoring leaves.",
    )
    parser.add_argument("folders", nargs="+", type=Path, help="for example exp/x_size*")
    parser.add_argument(
        "--model_file",
        default="",
        help="checkpoint in each folder (default: the only *.ave.pth)",
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        help="where to write (default: report/ beside the first folder)",
    )
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    logging.disable(logging.WARNING)
    write_report(args.folders, args.model_file, args.output_dir)
    return 0


def write_report(folders, model_file="", output_dir=None) -> Path:
    """Print the table and write it, with its pictures, to `output_dir`."""
    from espnet_dynsize.report.plots import plot_layers, plot_wer
    from espnet_dynsize.report.table import collect, markdown, write_csv

    rows = collect([Path(folder) for folder in folders], model_file)
    output_dir = Path(output_dir or Path(folders[0]).resolve().parent / "report")
    output_dir.mkdir(parents=True, exist_ok=True)
    text = markdown(rows)
    (output_dir / "report.md").write_text(text, encoding="utf-8")
    write_csv(rows, output_dir / "report.csv")
    plot_layers(rows, output_dir / "layers.png")
    pictures = [output_dir / "layers.png"]
    if plot_wer(rows, output_dir / "wer.png"):
        pictures.insert(0, output_dir / "wer.png")
    print(text)
    print("written:", *[output_dir / "report.md", output_dir / "report.csv", *pictures])
    return output_dir
