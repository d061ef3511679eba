"""Ways of use that once lost files or needed help by hand, through the commands."""

import hashlib
import shutil
from pathlib import Path

import pytest
import yaml
from experiment import AVERAGED, MODEL, experiment

from espnet_dynsize.bin.main import main
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.process import child
from espnet_dynsize.demo.run import run_demo
from espnet_dynsize.demo.stages import Experiment


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def exp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return experiment(tmp_path / "asr")[0]


def test_a_checkpoint_named_by_a_path(exp, tmp_path, capsys):
    """It is read there, and written nowhere but in the new folder."""
    before = digest(exp / AVERAGED)
    for name in (str(exp / MODEL), f"../asr/{MODEL}", f"asr/{MODEL}", MODEL):
        command = ["--asr_exp", "asr", "--model_file", name]
        assert main(["extract", *command, "--size", "3"]) == 0
        size = tmp_path / "asr_size3"
        assert sorted(p.name for p in size.iterdir()) == sorted(
            ["config.yaml", MODEL, "origin.yaml"]
        )
        assert main(["pack", *command]) == 0
        assert digest(exp / AVERAGED) == before and (exp / MODEL).is_symlink()
        shutil.rmtree(size)
    for name in ("sub/x.pth", "../other.pth", "/etc/hostname"):
        (exp / "sub").mkdir(exist_ok=True)
        for path in (exp / "sub/x.pth", tmp_path / "other.pth"):
            shutil.copyfile(exp / MODEL, path)
        command = ["--asr_exp", "asr", "--model_file", name]
        capsys.readouterr()
        for words in (["extract", *command, "--size", "3"], ["pack", *command]):
            assert main(words) == 2
            said = capsys.readouterr().err
            assert f"model_file={name} must be a file in asr" in said


def test_a_demo_s_folder_is_of_one_run(tmp_path):
    exp, other = tmp_path / "exp", tmp_path / "other.yaml"
    other.write_text("encoder: dynsize_conformer\nmodel_conf: {sizes: [2, 24]}\n")
    (exp / "asr_dynsize").mkdir(parents=True)
    with pytest.raises(ConfigError, match="has a training, but no demo.yaml"):
        run_demo("digits", None, exp, other)
    (exp / "asr_dynsize").rmdir()
    begun = dict(corpus="digits", corpus_dir=None, arguments=[])
    begun["config"] = yaml.safe_load(other.read_text())
    (exp / "demo.yaml").write_text(yaml.safe_dump(begun))
    for corpus, folder, config, arguments, what in (
        ("digits", None, None, [], "config"),
        ("an4", tmp_path, other, [], "corpus"),
        ("digits", None, other, ["--seed", "2"], "arguments"),
    ):
        with pytest.raises(ConfigError, match=f"was begun with another {what}"):
            run_demo(corpus, folder, exp, config, arguments)
    assert sorted(p.name for p in exp.iterdir()) == ["demo.yaml"]


def test_an_empty_token_list_is_not_left(tmp_path, monkeypatch):
    """Where the program that writes it is killed, the next run writes it."""
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "text").write_text("u A B\n")
    demo = Experiment(tmp_path / "exp", {"train": tmp_path / "train"}, "word")

    def killed(command, **options):
        Path(command[command.index("--output") + 1]).touch()
        return child(["sh", "-c", "kill -9 $$"], **options)

    with monkeypatch.context() as patch:
        patch.setattr("espnet_dynsize.demo.stages.child", killed)
        with pytest.raises(ConfigError, match="tokenize_text failed"):
            demo.make_token_list()
    assert [p.name for p in demo.exp.iterdir()] == ["tokenize.log"]
    demo.make_token_list()
    tokens = demo.tokens.read_text().split()
    assert tokens == ["<blank>", "<unk>", "A", "B", "<sos/eos>"]
