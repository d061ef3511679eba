"""Programs that asr.sh calls, as if they were installed."""

import os
import sys
from pathlib import Path

import pytest

from espnet_dynsize.recipe.needs import PROGRAMS


@pytest.fixture(scope="session")
def machine(tmp_path_factory):
    """What this machine has, but for those programs, and Python."""
    folder = tmp_path_factory.mktemp("machine")
    absent = {program.name for program in PROGRAMS if program.name != "perl"}
    absent |= {"sph2pipe", "flac"}
    for place in os.environ["PATH"].split(os.pathsep):
        for path in Path(place).glob("*"):
            hidden = path.name in absent or path.name.startswith("python")
            link = folder / path.name
            if not hidden and not link.is_symlink():  # the first one is found
                link.symlink_to(path)
    return folder


@pytest.fixture(autouse=True)
def installed(machine, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("bin")
    for program in PROGRAMS:
        if program.name != "perl":
            (folder / program.name).touch(0o755)
    python = folder / "python3"  # asr.sh's, which path.sh would have activated
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(folder), str(machine)]))
    return folder
