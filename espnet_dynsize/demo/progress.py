"""A progress bar for a training that runs in another process."""

import re
import subprocess
import sys
import time
from pathlib import Path

from tqdm import tqdm

_STARTED = re.compile(r"(\d+)/(\d+)epoch started")
_RESULT = re.compile(r"(\d+)epoch results: (.*)")
_CER = re.compile(r"\[valid\].*?\bcer_ctc=([\d.e+-]+)")
_PER_SIZE = re.compile(r"\bcer_ctc_(\d+)=([\d.e+-]+)")
_PHASE = re.compile(r"\bphase=([\d.e+-]+)")


def show_epochs(process: subprocess.Popen, log: Path, name: str) -> None:
    """Follow `log` until the process ends; one step of the bar is one epoch."""
    bar = None
    with log.open(encoding="utf-8", errors="replace") as lines:
        while True:
            line = lines.readline()
            if not line:
                if process.poll() is not None:
                    break
                time.sleep(0.2)
                continue
            if started := _STARTED.search(line):
                if bar is None:
                    bar = tqdm(total=int(started[2]), desc=name, file=sys.stdout)
                bar.n = int(started[1]) - 1
                bar.refresh()
            if bar is not None and (result := _RESULT.search(line)):
                bar.n = int(result[1])
                bar.set_postfix_str(summary(result[2]))
    if bar is not None:
        bar.close()


def summary(results: str) -> str:
    """Phase and valid CER of every size, from the trainer's line of results."""
    valid = results[results.find("[valid]") :]
    sizes = [f"{size}: {100 * float(v):.0f}%" for size, v in _PER_SIZE.findall(valid)]
    phase = _PHASE.search(valid)
    if not sizes:
        cer = _CER.search(results)
        return f"valid CER {100 * float(cer[1]):.0f}%" if cer else ""
    name = "joint" if phase and float(phase[1]) else "search"
    return f"{name}, valid CER {', '.join(sizes)}"
