"""What ONNX files need and hear where they run: size, memory, time, error rates."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jiwer
import soundfile
from tqdm import tqdm

from espnet_dynsize import runtime
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy.onnx.heard import Utterance

AT_ONCE = 500  # files that a command is given
_HEADER = """\
| file | MB | peak memory, MB | RTF | WER % | CER % |
|---|---:|---:|---:|---:|---:|
"""
# Runs a command, and writes the kilobytes that it needed at most. A process of its own:
# Linux gives a command the memory, too, that its parent had when it began.
_MEASURED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


class Row(NamedTuple):
    """What is reported of one file."""

    name: str
    megabytes: float  # of all its parts
    peak: float  # memory of a process that transcribes, MB
    rtf: float  # time / audio time, all utterances together, without opening it
    wer: float  # per cent
    cer: float  # per cent


def measure(files: Sequence[Path], data: Sequence[Utterance], threads: int = 1) -> Row:
    """Let a process of its own hear all utterances with `runtime.py` alone.

    Args:
        files: Of a model, see `runtime.files_of`.
        data: What is heard.
        threads: Of the computation.

    Raises:
        ConfigError: it cannot be opened, or some audio cannot be heard.
    """
    path, lines, peak = files[0], [], 0
    for at in range(0, len(data), AT_ONCE):
        said, needed = _hear(path, data[at : at + AT_ONCE], threads)
        lines += said
        peak = max(peak, needed)
    heard = [text for _, text, _, _ in lines]
    took = sum(float(seconds.removesuffix(" s")) for _, _, seconds, _ in lines)
    spoken = [utterance.text for utterance in data]
    return Row(
        path.name,
        sum(file.stat().st_size for file in files) / 1e6,
        peak / 1024,
        took / sum(soundfile.info(u.audio).duration for u in data),
        100 * jiwer.wer(spoken, heard),
        100 * jiwer.cer(spoken, heard),
    )


def _hear(
    path: Path, data: Sequence[Utterance], threads: int
) -> tuple[list[list[str]], int]:
    """Name, text, seconds and real-time factor of each; and kilobytes."""
    command = [sys.executable, "-c", _MEASURED, sys.executable, runtime.__file__]
    command += [f"--threads={threads}", "--", str(path)]
    command += [str(utterance.audio) for utterance in data]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.splitlines() or ["no reason is known"])[0]
        raise ConfigError(f"{path} could not be measured: {reason}")
    lines = [line.rsplit("\t", 3) for line in done.stdout.splitlines()]
    return lines, int(done.stderr.split()[-1])


def table(paths: Sequence[Path], data: Sequence[Utterance], threads: int = 1) -> str:
    """A markdown table of files, in the order given; see `measure`.

    Parts of others are left out: with these, they are measured.
    """
    try:
        found = {path: runtime.read_metadata(path) for path in paths}
    except runtime.InputError as error:
        raise ConfigError(str(error)) from error
    whole = {p: about for p, about in found.items() if "input" in about}
    if not whole:
        raise ConfigError(f"{paths[0]} is a part of a model: give its encoder's file.")
    shown = tqdm(whole.items(), desc="files", disable=None, leave=False)
    rows = [measure(runtime.files_of(*one), data, threads) for one in shown]
    return _HEADER + "".join(
        f"| {r.name} | {r.megabytes:.2f} | {r.peak:.0f} | {r.rtf:.4f} | {r.wer:.1f} | "
        f"{r.cer:.1f} |\n"
        for r in rows
    )
