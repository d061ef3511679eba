"""`espnet-dynsize export`: models as ONNX files."""

import argparse
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_dynsize.core.errors import ConfigError, check

if TYPE_CHECKING:
    from espnet_dynsize.deploy.onnx.export import Exported


def add_parser(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser(
        "export",
        help="write a model as an ONNX file, for devices without PyTorch",
        description="Write <asr_exp>/onnx/model.onnx, or <asr_exp>/onnx/size16.onnx "
        "and so on of members of a family, with all that recognises speech but the "
        "search: `espnet-dynsize transcribe`, `espnet_dynsize.load` and the single "
        "file espnet_dynsize/runtime.py take it. Transducers have two more files "
        "beside it; of models with an attention decoder, CTC is written, or the "
        "decoder in two more files. Needs pip install 'espnet_dynsize[export]'.",
    )
    parser.add_argument(
        "--asr_exp",
        type=Path,
        required=True,
        help="folder of a trained model, of this plugin's or of ESPnet's",
    )
    parser.add_argument(
        "--model_file",
        default="",
        help="checkpoint in asr_exp (default: the average, of the first "
        "best_model_criterion)",
    )
    parser.add_argument("--size", help="one of a family's sizes, or 'all'")
    parser.add_argument("--sparsity", help="one of its levels, or 'all'")
    parser.add_argument(
        "--subnet", type=Path, help="yaml file of any subnet, as for extract"
    )
    parser.add_argument(
        "--family", action="store_true", help="all members: --size all --sparsity all"
    )
    parser.add_argument(
        "--format",
        choices=("onnx", "sherpa"),
        default="onnx",
        help="one file, or <asr_exp>/onnx/<name>_sherpa/, which the programs of "
        "sherpa-onnx open; of models with frontend: kaldi (default: %(default)s)",
    )
    parser.add_argument(
        "--search",
        choices=("ctc", "attention"),
        help="of a model with an attention decoder: what is written (default: ctc); "
        "with attention, <name>_attention.onnx and its parts",
    )
    parser.add_argument(
        "--input",
        choices=("features", "samples"),
        default="features",
        help="what the graph takes: features, which the runner makes faster, or "
        "samples, with the front-end in the graph (default: %(default)s)",
    )
    parser.add_argument(
        "--quantize",
        choices=("int8",),
        help="matrix products of 8-bit integers; writes <name>_int8.onnx",
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="data directory (wav.scp, text) on which word errors are counted before "
        "and after; both are written into the file",
    )
    parser.add_argument(
        "--most",
        type=float,
        default=3.0,
        metavar="PER_CENT",
        help="more errors than this are refused (default: %(default)s)",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="write the file whatever it hears, or without --data",
    )
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    from espnet_dynsize.deploy.onnx.export import Options, export
    from espnet_dynsize.deploy.onnx.heard import read_data

    logging.disable(logging.WARNING)
    good = args.most >= 0  # neither is NaN
    check(good, "--most", args.most, "a number of per cent, at least 0")
    options = Options(
        audio=args.input == "samples",
        sherpa=args.format == "sherpa",
        search=args.search,
        quantise=args.quantize is not None,
        data=[] if args.data is None else read_data(args.data),
        most=args.most / 100,
        force=args.force,
    )
    chosen, names = _chosen(args)
    export(args.asr_exp, args.model_file, chosen, options, names, _print)
    return 0


def _chosen(args: argparse.Namespace) -> tuple[list, list[str]]:
    from espnet_dynsize.core.members import choose
    from espnet_dynsize.core.subnet import Subnet
    from espnet_dynsize.core.yaml_base import read_yaml
    from espnet_dynsize.deploy.extract import members_of

    of_family = args.size is not None or args.sparsity is not None
    if of_family + args.family + (args.subnet is not None) > 1:
        raise ConfigError("--size and --sparsity, --subnet, --family exclude another.")
    if args.subnet is not None:
        subnet = Subnet.from_yaml(read_yaml(args.subnet), str(args.subnet))
        name = args.subnet.stem
        taken = ["model", *(member.suffix for member in members_of(args.asr_exp))]
        good = re.fullmatch(r"[\w.-]+", name) and name not in taken
        allowed = f"named otherwise: letters, digits, . _ - and none of {taken}"
        check(good, "--subnet", args.subnet.name, allowed)
        return [subnet], [name]
    if args.family:
        return members_of(args.asr_exp), []
    if not of_family:
        return [], []
    return choose(members_of(args.asr_exp), args.size, args.sparsity), []


def _print(exported: "Exported") -> None:
    file = exported.path
    if file.is_dir():
        file = file / "model.onnx"
    megabytes = file.stat().st_size / 1e6
    heard = "" if exported.heard is None else f", {exported.heard}"
    print(f"{exported.path}: {megabytes:.2f} MB{heard}", flush=True)
