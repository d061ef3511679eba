"""`espnet-dynsize`: one command, a few verbs."""

import argparse
import sys
from collections.abc import Sequence

from espnet_dynsize.core.errors import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        if argv[:1] == ["run"]:
            # No argparse here: everything after `run` belongs to the program.
            from espnet_dynsize.bin.run import run

            return run(argv[1:])
        if argv[:1] == ["recipe"]:
            from espnet_dynsize.bin.recipe import main as recipe

            return recipe(argv[1:])
        args = build_parser().parse_args(argv)
        return args.function(args)
    except ConfigError as error:
        print(f"espnet-dynsize: error: {error}", file=sys.stderr)
        return 2


def build_parser() -> argparse.ArgumentParser:
    from espnet_dynsize.bin import (
        convert,
        demo,
        extract,
        pack,
        prepare,
        report,
        transcribe,
    )

    parser = argparse.ArgumentParser(
        prog="espnet-dynsize",
        description="Train one ESPnet model, use it at many sizes.",
    )
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)
    run = verbs.add_parser(
        "run",
        help="run a Python module or script with the plugin known to ESPnet",
        description="espnet-dynsize run -m MODULE [ARG …] | SCRIPT.py [ARG …]: like "
        "python, with the plugin's encoders and models known to ESPnet's ASR task.",
    )
    run.set_defaults(function=lambda args: 2)
    recipe = verbs.add_parser("recipe", help="what a recipe's run.sh calls")
    recipe.set_defaults(function=lambda args: 2)
    for verb in (prepare, extract, report, pack, transcribe, convert, demo):
        verb.add_parser(verbs)
    return parser


if __name__ == "__main__":
    sys.exit(main())
