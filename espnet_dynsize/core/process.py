"""Programs that this one starts, and that end with it."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

# How long a program that is told to end may take
GRACE = 20.0
_running: set[subprocess.Popen] = set()
_ending = threading.Event()
# Also the thread that a signal interrupts may have it.
_starting = threading.RLock()


@contextmanager
def child(command: Sequence[str], **options) -> Iterator[subprocess.Popen]:
    """Start a program; when the block ends, it and all that it has started has ended.

    Args:
        command: The program and its arguments.
        **options: Those of `subprocess.Popen`.
    """
    with _starting:
        if _ending.is_set():  # in another thread, which waits for this one
            raise SystemExit
        # A group of its own: a script's own children are told to end, too.
        process = subprocess.Popen(command, start_new_session=True, **options)
        _running.add(process)
    try:
        yield process
    finally:
        _end(process)
        _running.discard(process)


def run_child(command: Sequence[str], **options) -> int:
    """Run a program to its end; returns its exit code."""
    with child(command, **options) as process:
        return process.wait()


def end_on_signals() -> None:
    """Let what would end this program end what it has started first, in any thread.

    That is Ctrl-C, SIGTERM, or that its terminal is closed. A signal that it was
    started to ignore, as by `nohup`, stays ignored.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _exit)


def _exit(number: int, frame: object) -> None:
    with _starting:
        _ending.set()
        for process in tuple(_running):
            _tell(process, signal.SIGTERM)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _end(process: subprocess.Popen) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not _tell(process, number):
            break
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _tell(process: subprocess.Popen, number: int) -> bool:
    """Send a signal to its group; whether somebody is left there."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True
