"""`espnet-dynsize demo`: from a corpus to the table, in one command."""

import argparse
import logging
from pathlib import Path


def add_parser(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser(
        "demo",
        help="train, cut, decode and score a family on a small corpus",
        description="Every stage of an ESPnet recipe with pip packages alone. An "
        "interrupted demo goes on where it stopped. Arguments after -- go to "
        "espnet2.bin.asr_train.",
    )
    parser.add_argument(
        "--corpus",
        choices=("digits", "an4"),
        default="digits",
        help="digits: synthetic, no download; an4: real speech (default: %(default)s)",
    )
    parser.add_argument("--corpus_dir", type=Path, help="folder of AN4 (etc/, wav/)")
    parser.add_argument(
        "--exp",
        type=Path,
        help="folder for everything that is made (default: demo_exp/<corpus>)",
    )
    parser.add_argument("--config", type=Path, help="another training config")
    parser.add_argument(
        "train_arguments",
        nargs="*",
        metavar="-- ARG",
        help="for example: -- --max_epoch 3",
    )
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    from espnet_dynsize.demo.run import run_demo

    logging.disable(logging.WARNING)
    exp = args.exp or Path("demo_exp") / args.corpus
    run_demo(args.corpus, args.corpus_dir, exp, args.config, args.train_arguments)
    return 0
