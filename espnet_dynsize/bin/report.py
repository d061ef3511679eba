"""`espnet-dynsize report`: compare models of several sizes."""

import argparse
import logging
from pathlib import Path

from espnet_dynsize.core.errors import check


def add_parser(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser(
        "report",
        help="size, cost and error rates of several models: table and pictures",
        description="Measure the models in the given folders and write report.md, "
        "report.csv, wer.png and layers.png. Error rates come from the folders "
        "<inference>/<test set>/score_wer that scoring leaves: sclite's own numbers, "
        "or the same from ref.trn and hyp.trn. Where a test set was decoded in several "
        "ways, each has its column; what another checkpoint has decoded is left out.",
    )
    parser.add_argument("folders", nargs="+", type=Path, help="for example exp/x_size*")
    parser.add_argument(
        "--model_file",
        default="",
        help="checkpoint in each folder (default: the averaged one, of the first "
        "best_model_criterion)",
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        help="where to write (default: report/ beside the first folder)",
    )
    parser.add_argument(
        "--audio",
        nargs="+",
        type=Path,
        default=[],
        help="files on which the recognisers are timed (default: only the encoders "
        "are, on noise)",
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="only print, for each folder against the first, the difference of the "
        "error rates with a confidence interval and a p-value (paired bootstrap over "
        "utterances); folders of decoded test sets, too",
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="of .onnx files in place of folders: data directory (wav.scp, text) on "
        "which their time, memory and error rates are measured, with runtime.py alone; "
        "only prints the table",
    )
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    logging.disable(logging.WARNING)
    if args.compare:
        from espnet_dynsize.report.compare import compare

        for option in ("output_dir", "audio"):
            given = getattr(args, option)
            check(not given, f"--{option}", given, "left out with --compare")
        print(compare(args.folders, args.model_file), end="")
        return 0
    exported = [path for path in args.folders if path.suffix == ".onnx"]
    if exported or args.data:
        return _of_exports(args, exported)
    from espnet_dynsize.report.write import write_report

    write_report(args.folders, args.model_file, args.output_dir, args.audio)
    return 0


def _of_exports(args: argparse.Namespace, exported: list[Path]) -> int:
    from espnet_dynsize.deploy.onnx.heard import read_data
    from espnet_dynsize.report.runners import table

    good = exported == args.folders
    check(good, "folders", "…", "all of them .onnx files, or none, without --data")
    check(args.data is not None, "--data", None, "given with .onnx files")
    for option in ("output_dir", "audio", "model_file"):
        given = getattr(args, option)
        check(not given, f"--{option}", given, "left out with .onnx files")
    print(table(exported, read_data(args.data)), end="")
    return 0
