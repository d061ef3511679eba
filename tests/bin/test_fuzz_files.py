"""Files that are empty, cut, of another kind or hostile, given to every command.

Each is one sentence that names the file and exit code 2; nothing is written or run.
"""

import hashlib
import io
import os
import pickle
import shutil
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from experiment import AVERAGED, MODEL, experiment

from espnet_dynsize.bin.main import main
from espnet_dynsize.deploy.extract import extract
from espnet_dynsize.deploy.pack import pack

LIMIT = 10.0  # seconds for one command


class Bomb:
    """Unpickled, it leaves a file."""

    def __reduce__(self):
        return (os.mkdir, ("ran",))


def saved(value) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


LEVELS = "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)
ANYTHING = {
    "empty": b"",
    "garbage": bytes(range(256)) * 4,
    "text": b"hello world\n",
    "list": b"[1, 2]\n",
    "zip": b"PK\x03\x04" + b"\0" * 60,
    "pickle": pickle.dumps(Bomb()),
}
YAML = {
    "bomb": b"a0: &a0 [x]\n" + LEVELS.encode(),
    "deep": b"a: " + b"[" * 3000,
    "tag": b"a: !!python/object/apply:os.mkdir [ran]\n",
    "twice": b"a: 1\na: 2\n",
}
CHECKPOINT = {
    "list of tensors": saved([torch.ones(3)]),
    "other names": saved({"a": torch.ones(3)}),
    "pickle in a zip": saved({"a": Bomb()}),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A supernet, a size cut out of it, its zip, and audio."""
    folder = tmp_path_factory.mktemp("made")
    exp, _ = experiment(folder / "asr")
    size = extract(exp, MODEL, [5])[0].directory
    shutil.move(pack(size, MODEL), folder / "size5.zip")
    samples = np.random.RandomState(0).randn(16000).astype(np.float32) / 10
    soundfile.write(folder / "a.wav", samples, 16000)
    return folder


@pytest.fixture
def work(made, tmp_path, monkeypatch):
    """A copy of it, and an empty folder for temporary files."""
    copy = tmp_path / "work"
    shutil.copytree(made, copy, symlinks=True)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.chdir(tmp_path)
    return copy


def snapshot(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        if p.is_file()
        else "folder"
        for p in folder.rglob("*")
    }


def refused(command: list, named: str, folder: Path, capsys) -> str:
    """The sentence with which a command ends, having written nothing."""
    before, start = snapshot(folder), time.monotonic()
    capsys.readouterr()
    code = main([str(word) for word in command])
    said = capsys.readouterr().err
    assert time.monotonic() - start < LIMIT
    assert code == 2, said
    lines = [line for line in said.splitlines() if line.strip()]
    assert len(lines) == 1 and named in lines[0], said
    assert len(lines[0]) < 1500 and "Traceback" not in said
    assert "unsafe" not in said.lower()
    assert snapshot(folder) == before
    return lines[0]


def commands(work: Path) -> dict[str, list]:
    """What opens the supernet."""
    return {
        "extract": ["extract", "--asr_exp", work / "asr", "--size", "3"],
        "report": ["report", work / "asr"],
        "pack": ["pack", "--asr_exp", work / "asr"],
        "transcribe": ["transcribe", work / "asr", work / "a.wav"],
        "transcribe size": ["transcribe", work / "asr", work / "a.wav", "--size", "3"],
    }


every_command = pytest.mark.parametrize("command", list(commands(Path())))


def spoil(path: Path, kind: str) -> None:
    """Put what `kind` says in the place of a file, which may be there."""
    content = path.read_bytes() if path.exists() else b""
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "cut":
        path.write_bytes(content[: len(content) // 3])
    elif kind != "missing":
        path.write_bytes({**ANYTHING, **YAML, **CHECKPOINT}[kind])


@every_command
@pytest.mark.parametrize("kind", [*ANYTHING, *YAML, "missing", "folder", "cut"])
def test_config(work, tmp_path, command, kind, capsys):
    spoil(work / "asr" / "config.yaml", kind)
    refused(commands(work)[command], str(work / "asr"), tmp_path, capsys)


@every_command
@pytest.mark.parametrize("kind", [*ANYTHING, *CHECKPOINT, "missing", "folder", "cut"])
def test_checkpoint(work, tmp_path, command, kind, capsys):
    spoil(work / "asr" / AVERAGED, kind)
    refused(commands(work)[command], str(work / "asr"), tmp_path, capsys)


@pytest.mark.parametrize("kind", [*ANYTHING, *CHECKPOINT, "missing", "folder"])
def test_convert(work, tmp_path, kind, capsys):
    path = work / "stock.pth"
    spoil(path, kind)
    command = ["convert", "--model_file", path, "--output", work / "new.pth"]
    refused(command, str(path), tmp_path, capsys)


def rezipped(path: Path, change) -> None:
    """Write a zip again, each member as `change(name, content)` has it."""
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in members.items():
            content = change(name, content)
            if content is not None:
                new.writestr(name, content)


def in_config(**changes):
    """A change of config.yaml in the zip."""

    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("config.yaml"):
            return content
        config = yaml.safe_load(content)
        for key, value in changes.items():
            section = config.get(key)
            both = isinstance(section, dict) and isinstance(value, dict)
            config[key] = section | value if both else value
        return yaml.safe_dump(config).encode()

    return change


def put(end: str, content: bytes | None):
    return lambda name, old: content if name.endswith(end) else old


ZIPS = {
    "no meta": put("meta.yaml", None),
    "meta is a list": put("meta.yaml", b"[1]"),
    "meta is broken": put("meta.yaml", b"{a: ["),
    "meta is binary": put("meta.yaml", b"\xff\xfe"),
    "meta has no files": put("meta.yaml", b"{yaml_files: {}}"),
    "meta names lists": put("meta.yaml", b"{yaml_files: {a: [b]}, files: {}}"),
    "meta names a way out": put(
        "meta.yaml", b"{yaml_files: {asr_train_config: /etc/passwd}, files: {}}"
    ),
    "no config": put("config.yaml", None),
    "config is empty": put("config.yaml", b""),
    "config is a bomb": put("config.yaml", YAML["bomb"]),
    "config is deep": put("config.yaml", YAML["deep"]),
    "config has a tag": put("config.yaml", YAML["tag"]),
    "no checkpoint": put(".pth", None),
    "checkpoint is empty": put(".pth", b""),
    "checkpoint is a pickle": put(".pth", CHECKPOINT["pickle in a zip"]),
    "origin is a list": put("origin.yaml", b"[1]"),
    "origin has no keys": put("origin.yaml", b"{size: 5}"),
    "grows": lambda name, old: b"\0" * 400_000_000 if name.endswith(".pth") else old,
    "blocks": in_config(encoder_conf={"num_blocks": 10**8}),
    "width": in_config(encoder_conf={"output_size": 10**8}),
    "null sections": in_config(encoder_conf=None),
    "units": in_config(encoder_conf={"keep_layers": [10**6]}),
    "selector": in_config(model_conf={"selector": "antigravity.X", "sizes": [3, 8]}),
    "encoder": in_config(encoder="dynsize_nothing"),
    "tokens": in_config(token_list=5),
}


@pytest.mark.parametrize("kind", [*ANYTHING, "missing", *ZIPS])
def test_zip(work, tmp_path, kind, capsys):
    path = work / "size5.zip"
    if kind == "missing":
        path.unlink()
    elif kind in ANYTHING:
        path.write_bytes(ANYTHING[kind])
    else:
        rezipped(path, ZIPS[kind])
    size = ["--size", "5"] if "origin" in kind else []
    refused(["transcribe", path, work / "a.wav", *size], "", tmp_path, capsys)
    assert os.listdir(tmp_path / "tmp") == []


@pytest.mark.parametrize("name", ["../evil.txt", "/tmp/evil.txt", "a/../../evil.txt"])
def test_members_that_lead_out(work, tmp_path, name, capsys):
    with zipfile.ZipFile(work / "size5.zip", "a") as archive:
        archive.writestr(name, "evil")
    command = ["transcribe", work / "size5.zip", work / "a.wav"]
    assert "leads out of it" in refused(command, name, tmp_path, capsys)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_that_are_there_twice(work, tmp_path, capsys):
    """Python's zipfile gives the last of them, ESPnet takes the first."""
    with zipfile.ZipFile(work / "size5.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(work / "size5.zip", "w") as archive:
        archive.writestr("meta.yaml", "files: {asr_model_file: /etc/passwd}")
        for name, content in members.items():
            archive.writestr(name, content)
    command = ["transcribe", work / "size5.zip", work / "a.wav"]
    said = refused(command, "size5.zip", tmp_path, capsys)
    assert "has the member meta.yaml more than once" in said


@pytest.mark.parametrize("kind", [*ANYTHING, *YAML, "missing", "folder"])
def test_origin(work, tmp_path, kind, capsys):
    """What says that a folder is a size of this family."""
    spoil(work / "asr_size5" / "origin.yaml", kind)
    command = ["pack", "--asr_exp", work / "asr", "--family"]
    refused(command, "asr_size5", tmp_path, capsys)


@pytest.mark.parametrize("kind", [*ANYTHING, *YAML, "missing", "folder"])
def test_subnet(work, tmp_path, kind, capsys):
    path = work / "mine.yaml"
    spoil(path, kind)
    command = ["extract", "--asr_exp", work / "asr", "--subnet", path]
    refused(command, str(path), tmp_path, capsys)


def test_a_file_from_elsewhere_is_not_packed(work, tmp_path, capsys):
    (work / "secret.txt").write_text("secret")
    config = yaml.safe_load((work / "asr" / "config.yaml").read_text())
    for key, secret in (
        ("bpemodel", "/etc/hostname"),
        ("non_linguistic_symbols", "/etc/hostname"),
        ("non_linguistic_symbols", "../secret.txt"),
    ):
        text = yaml.safe_dump(config | {key: secret})
        (work / "asr" / "config.yaml").write_text(text)
        refused(["pack", "--asr_exp", work / "asr"], "", tmp_path, capsys)
    (work / "asr" / "config.yaml").write_text(yaml.safe_dump(config))
    (work / "asr" / "images").symlink_to("/etc/ssl")
    refused(["pack", "--asr_exp", work / "asr"], "images", tmp_path, capsys)


def test_commands_work_from_any_directory(work, tmp_path, monkeypatch, capsys):
    """Configs name their files relative to where the training was started."""
    stats = work / "stats" / "feats.npz"
    stats.parent.mkdir()
    np.savez(stats, count=10, sum=np.zeros(20), sum_square=np.full(20, 100.0))
    monkeypatch.chdir(work)
    options = dict(
        normalize="global_mvn", normalize_conf={"stats_file": "stats/feats.npz"}
    )
    (work / "exp").mkdir()
    exp, _ = experiment(work / "exp" / "asr_x", **options)
    for place in (tmp_path, exp, Path("/")):
        monkeypatch.chdir(place)
        name = "." if place == exp else str(exp)
        for command in (
            ["extract", "--asr_exp", name, "--size", "3"],
            ["transcribe", name, str(work / "a.wav"), "--size", "5"],
            ["pack", "--asr_exp", str(work / "exp/asr_x_size3")],
        ):
            assert main(command) == 0, capsys.readouterr().err
        written = yaml.safe_load((work / "exp/asr_x_size3/config.yaml").read_text())
        # As the training's own config names it.
        assert written["normalize_conf"]["stats_file"] == "stats/feats.npz"
        shutil.rmtree(work / "exp" / "asr_x_size3")
