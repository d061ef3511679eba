"""`espnet-dynsize extract`: cut one size, or all, out of a trained supernet."""

import argparse
import logging
import os

from espnet_dynsize.errors import ConfigError


def add_parser(verbs) -> None:
    parser = verbs.add_parser(
        "extract",
        help="cut one size, or all, out of a trained supernet",
        description="Write <asr_exp>_size<N>/ with config.yaml and a checkpoint that "
        "hold only what size N uses.",
    )
    parser.add_argument("--asr_exp", required=True, help="folder of the supernet")
    parser.add_argument(
        "--model_file",
        default="valid.loss.ave.pth",
        help="checkpoint in asr_exp, from the joint phase (default: %(default)s)",
    )
    parser.add_argument(
        "--size",
        required=True,
        help="number of layers to keep, or 'all' for every size",
    )
    parser.add_argument(
        "--format",
        choices=("plugin", "stock"),
        default="plugin",
        help="plugin: only the kept layers exist; stock: opens in ESPnet without this "
        "plugin (default: %(default)s)",
    )
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    from espnet_dynsize.deploy.extract import extract

    logging.disable(logging.WARNING)
    sizes = [] if args.size == "all" else [_number(args.size)]
    # No trailing slash: the new folders stand beside asr_exp.
    asr_exp = os.path.normpath(args.asr_exp)
    for model in extract(asr_exp, args.model_file, sizes, args.format):
        print(f"{model.directory}: size {model.size}, {model.note}")
    return 0


def _number(size: str) -> int:
    if not size.isdecimal():
        raise ConfigError(f"size={size} must be a number of layers or 'all'.")
    return int(size)
