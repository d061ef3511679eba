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
    "os.write(1, b'%d\\n' % os.getpid())\n"  # at once: there are several of these
    "subprocess.run([sys.executable, '-c', 'import os, time;"
    'os.write(1, b"%d\\\\n" % os.getpid()); time.sleep(60)\'])\n'
)
PARENT = (
    "import sys\n"
    "from espnet_dynsize.core.process import end_on_signals, run_child\n"
    "end_on_signals()\n"
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


# Two of three jobs are running, in threads
THREADS = (
    "import sys\n"
    "from concurrent.futures import ThreadPoolExecutor\n"
    "from espnet_dynsize.core.process import end_on_signals, run_child\n"
    "end_on_signals()\n"
    "with ThreadPoolExecutor(2) as pool:\n"
    f"    jobs = [pool.submit(run_child, [sys.executable, '-c', {NESTED!r}])\n"
    "            for _ in range(3)]\n"
    "    jobs[0].result()\n"
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("program, children", [(PARENT, 2), (THREADS, 4)])
def test_nothing_lives_on_after_a_signal(number, program, children):
    command = [sys.executable, "-c", program]
    streams = dict(stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def heed():  # also where the tests themselves run under nohup
        signal.signal(number, signal.SIG_DFL)

    with subprocess.Popen(command, **streams, preexec_fn=heed) as parent:
        pids = [int(parent.stdout.readline()) for _ in range(children)]
        parent.send_signal(number)
        assert parent.stdout.read() == ""  # no other program begins
        assert parent.wait() == (-number if number == signal.SIGINT else 128 + number)
    assert all(map(gone, pids))


def test_what_nohup_ignores_stays_ignored():
    code = (
        "import os, signal\n"
        "from espnet_dynsize.core.process import end_on_signals\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "end_on_signals()\n"
        "os.kill(os.getpid(), signal.SIGHUP)\n"
        "print('goes on')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "goes on\n"


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
