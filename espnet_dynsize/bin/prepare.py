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
    parser.add_argument(
        "--lm_text",
        choices=("true", "false"),
        default="false",
        help="for librispeech and tedlium2: also write DATA/local/other_text/text, "
        "the corpus's texts for language models (default: %(default)s)",
    )
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    from espnet_dynsize.corpora import an4, librispeech, tedlium2

    options = {"train_set": args.train_set} if args.corpus == "librispeech" else {}
    corpora = {"an4": an4, "librispeech": librispeech, "tedlium2": tedlium2}
    corpus = corpora[args.corpus]
    for folder in corpus.prepare(args.corpus_dir, args.data, **options).values():
        lines = (folder / "text").read_text(encoding="utf-8").count("\n")
        print(f"{folder}: {lines} utterances")
    if args.lm_text == "true":
        path = args.data / "local" / "other_text" / "text"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            for number, line in enumerate(corpus.lm_text(args.corpus_dir), 1):
                file.write(f"{args.corpus}_lm_{number:08} {line}\n")
        print(path)
    return 0
