"""Programs that this one starts, and that end with it."""

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

# How long a program that is told to end may take
GRACE = 20.0


@contextmanager
def child(command: Sequence[str], **options) -> Iterator[subprocess.Popen]:
    """Start a program; when the block ends, it and all that it has started has ended.

    Args:
        command: The program and its arguments.
        **options: Those of `subprocess.Popen`.
    """
    # A group of its own: a script's own children are told to end, too.
    process = subprocess.Popen(command, start_new_session=True, **options)
    try:
        yield process
    finally:
        _end(process)


def run_child(command: Sequence[str], **options) -> int:
    """Run a program to its end; returns its exit code."""
    with child(command, **options) as process:
        return process.wait()


def end_on_sigterm() -> None:
    """Let SIGTERM end this program as Ctrl-C does: what it has started ends first."""
    signal.signal(signal.SIGTERM, _exit)


def _exit(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _end(process: subprocess.Popen) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:  # nobody is left in the group
            break
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
