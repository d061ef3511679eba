"""`espnet-dynsize prepare`: data directories of a corpus."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.core.files import replacing


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
        choices=("true", "false", "only"),
        default="false",
        help="for librispeech and tedlium2: also write DATA/local/other_text/text, "
        "the corpus's texts for language models; only: nothing else (default: "
        "%(default)s)",
    )
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    from espnet_dynsize.corpora import an4, librispeech, tedlium2

    corpora = {"an4": an4, "librispeech": librispeech, "tedlium2": tedlium2}
    corpus = corpora[args.corpus]
    if args.lm_text != "false":
        allowed = "false for an4, which has no texts for language models"
        check(corpus is not an4, "lm_text", args.lm_text, allowed)
        lines = corpus.lm_text(args.corpus_dir)  # or why there are none
        print(_write_lm_text(args.data, f"{args.corpus}_lm", lines))
    if args.lm_text != "only":
        options = {"train_set": args.train_set} if corpus is librispeech else {}
        for folder in corpus.prepare(args.corpus_dir, args.data, **options).values():
            count = (folder / "text").read_text(encoding="utf-8").count("\n")
            print(f"{folder}: {count} utterances")
    return 0


def _write_lm_text(data: Path, prefix: str, lines: Iterable[str]) -> Path:
    """Write `local/other_text/text`, where ESPnet's LibriSpeech recipe has it.

    Raises:
        ConfigError: there are no lines.
    """
    path = data / "local" / "other_text" / "text"
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        number = 0
        for number, line in enumerate(lines, 1):
            file.write(f"{prefix}_{number:08} {line}\n")
        if number == 0:
            raise ConfigError("the corpus's texts for language models have no words.")
    return path
