"""Files and folders are written whole, and over nobody's work."""

import errno
import os
import subprocess
import sys

import pytest

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.files import (
    RECORD,
    check_replaceable,
    new_folder,
    replacing,
    whole,
    write_text,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_written_here_is_replaced(tmp_path):
    path = tmp_path / "sub" / "report.md"
    write_text(path, "one")
    write_text(path, "two")
    write_text(path, "one")
    assert path.read_text() == "one"
    assert names(path.parent) == [RECORD, "report.md"]


def test_what_a_user_wrote_or_changed_is_not(tmp_path):
    path = tmp_path / "report.md"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="report.md was not written by espnet-dyn"):
        write_text(path, "theirs")
    write_text(path, "mine")  # the same: nothing to replace
    assert (path.read_text(), names(tmp_path)) == ("mine", ["report.md"])
    path.unlink()
    write_text(path, "ours")
    path.write_text("ours, edited")
    with pytest.raises(ConfigError, match="or has been changed since"):
        check_replaceable([path])
    assert path.read_text() == "ours, edited"


def test_a_link_is_not_written_through(tmp_path):
    target, path = tmp_path / "target", tmp_path / "link"
    write_text(target, "one")
    path.symlink_to(target)
    with pytest.raises(ConfigError, match="link was not written"):
        write_text(path, "two")
    assert target.read_text() == "one"


def test_an_error_leaves_the_old_content_and_no_rest(tmp_path):
    path = tmp_path / "report.md"
    write_text(path, "old")
    with pytest.raises(OSError), replacing(path) as partial:
        partial.write_text("half")
        raise OSError("disk full")
    assert (path.read_text(), names(tmp_path)) == ("old", [RECORD, "report.md"])


def test_a_kill_between_record_and_rename(tmp_path, monkeypatch):
    path = tmp_path / "report.md"
    write_text(path, "old")

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        write_text(path, "new")
    assert path.read_text() == "old"
    write_text(path, "new")  # still ours
    assert path.read_text() == "new"


def test_a_folder_appears_whole(tmp_path):
    with new_folder(tmp_path / "asr_size4") as unfinished:
        (unfinished / "a").write_text("a")
        # No pattern that users give for finished ones finds it.
        assert list(tmp_path.glob("asr_size*")) == []
    assert names(tmp_path) == ["asr_size4"]
    with pytest.raises(ConfigError, match="asr_size4 exists"):
        new_folder(tmp_path / "asr_size4").__enter__()
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "other"):
        raise ZeroDivisionError
    assert names(tmp_path) == ["asr_size4"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    code = (
        "import os, sys; from pathlib import Path\n"
        "from espnet_dynsize.core.files import new_folder\n"
        "with new_folder(Path(sys.argv[1])): os._exit(1)\n"
    )
    target = tmp_path / "asr [size] 4"
    subprocess.run([sys.executable, "-c", code, str(target)])
    assert len(names(tmp_path)) == 1
    with new_folder(target):
        pass
    assert names(tmp_path) == [target.name]


def fill(partial, error):
    raise error


@pytest.mark.parametrize("write", [replacing, whole, new_folder])
def test_a_copy_that_does_not_fit_names_the_output(tmp_path, write):
    """Python names the source first."""
    path, source = tmp_path / "out", tmp_path / "source"
    with (
        pytest.raises(ConfigError, match=f"output {path} cannot be written: No sp"),
        write(path) as partial,
    ):
        target = str(partial / "x" if partial.is_dir() else partial)
        raise OSError(errno.ENOSPC, "No space", str(source), None, target)


@pytest.mark.parametrize("write", [replacing, whole, new_folder])
@pytest.mark.parametrize(
    "error, why",
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device."),
        (RuntimeError("[enforce fail at inline_container.cc:1]"), "is the disk full?"),
    ],
)
def test_a_full_disk_names_the_output(tmp_path, write, error, why):
    path = tmp_path / "out"
    with pytest.raises(ConfigError) as said, write(path) as partial:
        fill(partial, error)
    assert str(said.value) == f"output {path} cannot be written: {why}"
    assert names(tmp_path) == []


@pytest.mark.parametrize("write", [replacing, whole, new_folder])
def test_a_folder_that_takes_nothing(tmp_path, write):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "out"
    with pytest.raises(ConfigError, match=f"{path} cannot be written: "), write(path):
        pass


@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "No such file", "input"), RuntimeError("other")]
)
def test_other_errors_pass(tmp_path, error):
    with pytest.raises(type(error)), replacing(tmp_path / "out") as partial:
        fill(partial, error)
