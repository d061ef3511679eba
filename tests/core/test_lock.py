"""One process at a time in a folder."""

import signal
import subprocess
import sys

import pytest

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.lock import locked

HOLD = (
    "import sys, time; from pathlib import Path\n"
    "from espnet_dynsize.core.lock import locked\n"
    "with locked(Path(sys.argv[1]), 'training'):\n"
    "    print('held', flush=True); time.sleep(60)\n"
)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_lock_ends_with_its_process(tmp_path, number):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "exp")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        message = "exp is in use: another process is training"
        with (
            pytest.raises(ConfigError, match=message),
            locked(tmp_path / "exp", "training"),
        ):
            pass
        holder.send_signal(number)
        holder.wait()
    with locked(tmp_path / "exp", "training"):
        pass


def test_a_file_of_the_user_s_is_left_as_it_is(tmp_path):
    (tmp_path / ".lock").write_text("mine")
    with locked(tmp_path, "training"):
        pass
    assert (tmp_path / ".lock").read_text() == "mine"
