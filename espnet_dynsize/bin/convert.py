"""`espnet-dynsize convert`: a stock checkpoint for a supernet with LayerNorm."""

import argparse
from pathlib import Path


def add_parser(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser(
        "convert",
        help="make a stock Conformer's checkpoint fit a supernet with LayerNorm",
        description="Replace BatchNorm by LayerNorm in the convolution modules of a "
        "stock Conformer's checkpoint, for --init_param of a supernet with conv_norm: "
        "layer_norm. With conv_norm: batch_norm, no conversion is needed.",
    )
    parser.add_argument(
        "--model_file", required=True, type=Path, help="stock checkpoint"
    )
    parser.add_argument("--output", required=True, type=Path, help="new checkpoint")
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    from espnet_dynsize.deploy.convert import convert

    number = convert(args.model_file, args.output)
    print(f"{args.output}: {number} norms converted")
    return 0
