"""Programs that are started here end with this one."""

import os
import signal
import subprocess
import sys
import time

import pytest

from espnet_dynsize.core.process import child, run_child

# Starts a program that starts another, both of which say who they are
NESTED = (
    "import os, subprocess, sys\n"
    "print(os.getpid(), flush=True)\n"
    "subprocess.run([sys.executable, '-c', 'import os, time;"
    "print(os.getpid(), flush=True); time.sleep(60)'])\n"
)
PARENT = (
    "import sys\n"
    "from espnet_dynsize.core.process import end_on_sigterm, run_child\n"
    "end_on_sigterm()\n"
    f"run_child([sys.executable, '-c', {NESTED!r}])\n"
)


def gone(pid: int) -> bool:
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        with open(f"/proc/{pid}/stat") as file:
            if file.read().rsplit(") ")[1].startswith("Z"):
                return True  # dead; nobody has asked yet
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_nothing_lives_on_after_a_signal(number):
    command = [sys.executable, "-c", PARENT]
    streams = dict(stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    with subprocess.Popen(command, **streams) as parent:
        pids = [int(parent.stdout.readline()) for _ in range(2)]
        parent.send_signal(number)
        parent.wait()
    assert all(map(gone, pids))


def test_the_exit_code_is_the_program_s():
    assert run_child([sys.executable, "-c", "raise SystemExit(3)"]) == 3


def test_one_that_ignores_sigterm_is_killed(monkeypatch):
    monkeypatch.setattr("espnet_dynsize.core.process.GRACE", 0.5)
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code]
    with child(command, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
    assert process.returncode == -signal.SIGKILL
