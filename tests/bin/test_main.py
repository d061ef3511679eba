"""One entry point: what is no bug is one sentence."""

import errno
import os
import subprocess
import sys

import pytest

from espnet_dynsize.bin import main as entry
from espnet_dynsize.bin.main import main
from espnet_dynsize.core.errors import ConfigError


@pytest.mark.parametrize(
    "error, code, text",
    [
        (ConfigError("key=1 must be 2."), 2, "error: key=1 must be 2."),
        (ConfigError("key=\x1b[2J must be 2."), 2, "error: key=\\x1b[2J must be 2."),
        (FileNotFoundError(2, "No such file", "a.yaml"), 2, "error: a.yaml: No such"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "No space left on dev"),
        (RuntimeError("[enforce fail at inline_container.cc:672] ."), 2, "disk full?"),
        (RuntimeError("basic_ios::clear: iostream error"), 2, "is the disk full?"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9"), 2, "memory"),
        (MemoryError(), 2, "not enough memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_is_no_bug(error, code, text, monkeypatch, capsys):
    class Parser:
        def parse_args(self, argv):
            raise error

    monkeypatch.setattr(entry, "build_parser", Parser)
    monkeypatch.setattr(entry, "end_on_signals", lambda: None)
    assert main(["report", "x"]) == code
    said = capsys.readouterr().err
    assert text in said and said.count("\n") == 1


def test_a_list_of_what_is_missing_has_lines(monkeypatch, capsys):
    def parser():
        raise ConfigError("install:\n  perl\n  \x1b[2J")

    monkeypatch.setattr(entry, "build_parser", parser)
    monkeypatch.setattr(entry, "end_on_signals", lambda: None)
    assert main(["report", "x"]) == 2
    assert "error: install:\n  perl\n  \\x1b[2J\n" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(monkeypatch):
    class Parser:
        def parse_args(self, argv):
            raise RuntimeError("a bug")

    monkeypatch.setattr(entry, "build_parser", Parser)
    monkeypatch.setattr(entry, "end_on_signals", lambda: None)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["report", "x"])


def test_a_program_s_errors_are_its_own(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("open('nothing')")
    with pytest.raises(FileNotFoundError):
        main(["run", str(script)])


# A command that prints a line and then many more
MANY_LINES = (
    "import sys\n"
    "from espnet_dynsize.bin import main as entry\n"
    "class Parser:\n"
    "    def parse_args(self, argv): return self\n"
    "    def function(self, args):\n"
    "        print('na\\xefve')\n"
    "        for line in range(int(argv[0])): print(line)\n"
    "        return 0\n"
    "argv = sys.argv[1:]\n"
    "entry.build_parser = Parser\n"
    "sys.exit(entry.main(argv))\n"
)


@pytest.mark.parametrize(
    "lines, shell, code, out",
    [
        ("1", "$0 {}", 0, "na\\xefve\n0\n"),
        # With few lines, Python would write them when it exits.
        ("1", "$0 {} | true; exit ${{PIPESTATUS[0]}}", 141, ""),
        ("100000", "$0 {} | head -1; exit ${{PIPESTATUS[0]}}", 141, "na\\xefve\n"),
        ("1", "$0 {} >&-", 0, ""),
    ],
)
def test_output_that_cannot_be_written(tmp_path, lines, shell, code, out):
    script = tmp_path / "script.py"
    script.write_text(MANY_LINES)
    done = subprocess.run(
        ["bash", "-c", shell.format(f"{script} {lines}"), sys.executable],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, out, "")


def test_a_full_disk_behind_the_output(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(MANY_LINES)
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, script, "1"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    said = "espnet-dynsize: error: No space left on device.\n"
    assert (done.returncode, done.stderr) == (2, said)
