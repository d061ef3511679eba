"""`espnet-dynsize prepare`: data directories of a corpus."""

import argparse
from pathlib import Path


def add_parser(verbs) -> None:
    parser = verbs.add_parser(
        "prepare",
        help="write the data directories of a corpus, as stage 1 of a recipe",
        description="Check a corpus and write DATA/<set>/{wav.scp,text,…}, the input "
        "of ESPnet's stages.",
    )
    parser.add_argument("corpus", choices=("an4", "librispeech", "tedlium2"))
    parser.add_argument("--corpus_dir", type=Path, required=True, help="where it is")
    parser.add_argument("--data", type=Path, default=Path("data"), help="%(default)s")
    parser.add_argument(
        "--train_set",
        default="train_960",
        help="for librispeech: train_960 or train_clean_100 (default: %(default)s)",
    )
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    from espnet_dynsize.corpora import an4, librispeech, tedlium2
    from espnet_dynsize.errors import check

    options = {}
    if args.corpus == "librispeech":
        sets = tuple(librispeech.TRAIN_SETS)
        check(args.train_set in sets, "train_set", args.train_set, f"one of {sets}")
        options["train_set"] = args.train_set
    corpora = {"an4": an4, "librispeech": librispeech, "tedlium2": tedlium2}
    for name, folder in (
        corpora[args.corpus].prepare(args.corpus_dir, args.data, **options).items()
    ):
        lines = (folder / "text").read_text(encoding="utf-8").count("\n")
        print(f"{folder}: {name}, {lines} utterances")
    return 0
