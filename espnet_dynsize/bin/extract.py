"""`espnet-dynsize extract`: cut one member of a family, or all, out of a supernet."""

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
        help="cut one size or sparsity, or all, out of a trained supernet",
        description="Write <asr_exp>_size<N>/, <asr_exp>_sparsity<P>/ or "
        "<asr_exp>_size<N>_sparsity<P>/ with config.yaml and a checkpoint that hold "
        "only what it uses.",
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
    parser.add_argument("--size", help="one of the family's sizes, or 'all'")
    parser.add_argument(
        "--sparsity",
        help="one of the family's levels, such as 0.7, or 'all'; with --size of that "
        "size, else of the full one",
    )
    parser.add_argument(
        "--subnet",
        type=Path,
        help="yaml file of any subnet, {num_units: N, kept: [positions], head: full}, "
        "with {sparsity: {matrix: share}} where it is sparse; writes "
        "<asr_exp>_<name of the file>/",
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
        "--context",
        help="of a family with contexts: 'whole' or one such as 20/8/8; writes "
        "<asr_exp>_size<N>_<context>/ (default: the encoder's own)",
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
    of_family = args.size is not None or args.sparsity is not None
    named = of_family or (args.subnet is None and args.context is not None)
    if named == (args.subnet is not None):
        raise ConfigError("extract needs --size, --sparsity or both, or --subnet.")
    if args.subnet is not None:
        model = _extract_subnet(args)
        print(f"{model.directory}: subnet {model.name}, {model.note}")
        return 0
    if args.calibrate:
        raise ConfigError("--calibrate goes with --subnet; sizes have statistics.")
    chosen = _chosen(args)
    where = args.asr_exp, args.model_file
    extract(*where, chosen, args.format, _print, args.context)
    return 0


def _chosen(args: argparse.Namespace) -> list:
    from espnet_dynsize.core.members import choose
    from espnet_dynsize.deploy.extract import members_of

    return choose(members_of(args.asr_exp), args.size, args.sparsity)


def _print(model: "Extracted") -> None:
    what = f"size {model.name}" if model.name.isdecimal() else model.name
    print(f"{model.directory}: {what}, {model.note}", flush=True)


def _extract_subnet(args: argparse.Namespace) -> "Extracted":
    from espnet_dynsize.core.context import Context
    from espnet_dynsize.core.subnet import Subnet
    from espnet_dynsize.core.yaml_base import read_yaml
    from espnet_dynsize.deploy.extract import extract_subnet

    subnet = Subnet.from_yaml(read_yaml(args.subnet), str(args.subnet))
    name, files = args.subnet.stem, args.calibrate
    if args.context is not None:
        name = f"{name}_{Context.read(args.context, '--context').suffix}"
    return extract_subnet(
        args.asr_exp, args.model_file, subnet, name, args.format, files, args.context
    )
