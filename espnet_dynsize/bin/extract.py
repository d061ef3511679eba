"""`espnet-dynsize extract`: cut one size, or all, out of a trained supernet."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_dynsize.core.errors import ConfigError

if TYPE_CHECKING:
    from espnet_dynsize.deploy.extract import Extracted


def add_parser(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser(
        "extract",
        help="cut one size, or all, out of a trained supernet",
        description="Write <asr_exp>_size<N>/ with config.yaml and a checkpoint that "
        "hold only what size N uses.",
    )
    parser.add_argument(
        "--asr_exp", type=Path, required=True, help="folder of the supernet"
    )
    parser.add_argument(
        "--model_file",
        default="",
        help="checkpoint in asr_exp, from the joint phase (default: the average, of "
        "the first best_model_criterion)",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--size", help="one of the family's sizes, or 'all'")
    what.add_argument(
        "--subnet",
        type=Path,
        help="yaml file of any subnet, {num_units: N, kept: [positions], head: full}; "
        "writes <asr_exp>_<name of the file>/",
    )
    parser.add_argument(
        "--calibrate",
        nargs="+",
        type=Path,
        metavar="AUDIO",
        help="with --subnet: audio files on which batch-norm statistics are measured; "
        "needed with conv_norm: batch_norm (32 utterances are enough)",
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
    if args.subnet is not None:
        model = _extract_subnet(args)
        print(f"{model.directory}: subnet {model.name}, {model.note}")
        return 0
    if args.calibrate:
        raise ConfigError("--calibrate goes with --subnet; sizes have statistics.")
    sizes = [] if args.size == "all" else [_number(args.size)]
    extract(args.asr_exp, args.model_file, sizes, args.format, done=_print)
    return 0


def _print(model: "Extracted") -> None:
    print(f"{model.directory}: size {model.name}, {model.note}", flush=True)


def _extract_subnet(args: argparse.Namespace) -> "Extracted":
    from espnet_dynsize.core.subnet import Subnet
    from espnet_dynsize.core.yaml_base import read_yaml
    from espnet_dynsize.deploy.extract import extract_subnet

    subnet = Subnet.from_yaml(read_yaml(args.subnet), str(args.subnet))
    name, files = args.subnet.stem, args.calibrate
    return extract_subnet(
        args.asr_exp, args.model_file, subnet, name, args.format, files
    )


def _number(size: str) -> int:
    if not size.isdecimal() or len(size) > 9:
        raise ConfigError(f"size={size} must be a number or 'all'.")
    return int(size)
