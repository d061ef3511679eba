"""One entry point: what is no bug is one sentence."""

import errno

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
    monkeypatch.setattr(entry, "end_on_sigterm", lambda: None)
    assert main(["report", "x"]) == code
    said = capsys.readouterr().err
    assert text in said and said.count("\n") == 1


def test_a_bug_keeps_its_traceback(monkeypatch):
    class Parser:
        def parse_args(self, argv):
            raise RuntimeError("a bug")

    monkeypatch.setattr(entry, "build_parser", Parser)
    monkeypatch.setattr(entry, "end_on_sigterm", lambda: None)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["report", "x"])


def test_a_program_s_errors_are_its_own(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("open('nothing')")
    with pytest.raises(FileNotFoundError):
        main(["run", str(script)])
