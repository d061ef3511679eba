"""`espnet-dynsize`: one command, a few verbs."""

import argparse
import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from espnet_dynsize.core.errors import ConfigError, printable
from espnet_dynsize.core.files import torch_could_not_write
from espnet_dynsize.core.process import end_on_signals

# As shells have it
INTERRUPTED, UNREAD = 128 + signal.SIGINT, 128 + signal.SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code.

    What cannot be read, written or held in memory is one sentence on stderr and exit
    code 2; a traceback is a bug.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    runs = argv[:1] == ["run"]
    try:
        if runs:
            # No argparse here: everything after `run` belongs to the program.
            from espnet_dynsize.bin.run import run

            return run(argv[1:])
        end_on_signals()
        with _output():
            return _run_verb(argv)
    except KeyboardInterrupt:
        print("espnet-dynsize: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and not runs:
            return UNREAD  # whoever has read the output, such as `head`, has gone
        sentence = _explain(error, runs)
        if sentence is None:
            raise
        lines = "\n".join(map(printable, sentence.split("\n")))
        print(f"espnet-dynsize: error: {lines}", file=sys.stderr)
        return 2


def _run_verb(argv: Sequence[str]) -> int:
    if argv[:1] == ["recipe"]:
        from espnet_dynsize.bin.recipe import main as recipe

        return recipe(argv[1:])
    args = build_parser().parse_args(argv)
    return args.function(args)


@contextmanager
def _output() -> Iterator[None]:
    """Let output be written whatever it is, and to its end inside of the block."""
    if sys.stdout is None:  # closed
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What its encoding lacks is shown as \xe9, as on stderr.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        except OSError:
            # Python would try again when it exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise


def _explain(error: Exception, runs: bool) -> str | None:
    """One sentence for what is not a bug, else None.

    Args:
        error: What was raised.
        runs: A program of the user's or of ESPnet's runs, whose errors are its own.
    """
    if isinstance(error, ConfigError):
        return str(error)
    if torch_could_not_write(error):
        return "a file could not be written: is the disk full?"
    if runs:
        return None
    if isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{error.strerror or error}."
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "there is not enough memory for this model and input."
    return None


def build_parser() -> argparse.ArgumentParser:
    from espnet_dynsize.bin import (
        convert,
        demo,
        export,
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
    for verb in (
        prepare,
        extract,
        report,
        pack,
        transcribe,
        export,
        convert,
        demo,
    ):
        verb.add_parser(verbs)
    return parser


if __name__ == "__main__":
    sys.exit(main())
