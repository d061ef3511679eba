"""sclite, the scorer that asr.sh calls: what it has written, and calling it."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from espnet_dynsize.core.errors import ConfigError

# sclite centres its tables, so that there may be spaces before the first bar.
_AVERAGE = re.compile(
    r"^[ \t]*\|\s*Sum/Avg\s*\|\s*(\d+)\s+(\d+)\s*\|\s*([\d.\s]+)\|", re.M
)
_COUNTS = re.compile(r"^[ \t]*\|\s*Sum\s*\|\s*(\d+)\s+(\d+)\s*\|\s*([\d\s]+)\|", re.M)
_COLUMNS = 6  # correct, substituted, deleted, inserted, errors; sentences with errors
RESULT = "result.txt"


class Result(NamedTuple):
    """What sclite has counted."""

    sentences: int
    words: int  # of the reference
    error_rate: float  # a fraction
    hypothesis_words: int | None = None  # where the table with counts is there


def read_sum(folder: Path) -> tuple[int, int, Sequence[str]]:
    """Sentences, words and percentages of sclite's `result.txt`.

    Raises:
        ConfigError: it has no such line.
    """
    path = folder / RESULT
    line = _AVERAGE.search(path.read_text(encoding="utf-8", errors="replace"))
    if line is None or len(line[3].split()) < _COLUMNS:
        raise ConfigError(f"{path} has no Sum/Avg line; score again (stage 13).")
    return int(line[1]), int(line[2]), line[3].split()


def read_result(path: Path) -> Result | None:
    """What a `result.txt` says; None where there is none, or sclite has failed."""
    if not path.is_file():
        return None
    return _parse(path.read_text(encoding="utf-8", errors="replace"))


def run(folder: Path) -> Result | None:
    """Score `ref.trn` and `hyp.trn`; None where there is no sclite, or it fails."""
    program = shutil.which("sclite")
    if program is None:
        return None
    # In the folder, as sclite has no room for long names
    done = subprocess.run(
        [os.path.abspath(program), "-r", "ref.trn", "trn", "-h", "hyp.trn", "trn"]
        + ["-i", "rm", "-o", "rsum", "stdout"],
        cwd=folder,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        return None
    return _parse(done.stdout.decode("utf-8", errors="replace"))


def _parse(text: str) -> Result | None:
    counts, average = _COUNTS.search(text), _AVERAGE.search(text)
    # Counts first: the average is rounded.
    if counts is not None and len(counts[3].split()) >= _COLUMNS:
        correct, wrong, deleted, inserted, *_ = map(int, counts[3].split())
        words = int(counts[2])
        rate = (wrong + deleted + inserted) / max(words, 1)
        return Result(int(counts[1]), words, rate, correct + wrong + inserted)
    if average is not None and len(average[3].split()) >= _COLUMNS:
        percent = float(average[3].split()[4])
        return Result(int(average[1]), int(average[2]), percent / 100)
    return None
