"""Programs that asr.sh calls, as if they were installed."""

import os
import sys

import pytest

from espnet_dynsize.recipe.needs import PROGRAMS


@pytest.fixture(autouse=True)
def installed(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("bin")
    for program in PROGRAMS:
        if program.name != "perl":
            (folder / program.name).touch(0o755)
    python = folder / "python3"  # asr.sh's, which path.sh would have activated
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder
