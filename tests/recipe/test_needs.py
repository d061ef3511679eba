"""What must be installed before a recipe begins."""

from pathlib import Path

import pytest

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.recipe.needs import check_needs, imports
from espnet_dynsize.recipe.options import parse

QUIET = {"use_tensorboard": False}


@pytest.fixture
def recipe(tmp_path, monkeypatch, installed, machine):
    monkeypatch.chdir(tmp_path)
    Path("bin").mkdir()
    for program in installed.iterdir():
        Path("bin", program.name).symlink_to(program)
    # Everything else than what is looked for
    Path("path.sh").write_text(f"PATH=$PWD/bin:{machine}\n")
    return tmp_path


def needs(*argv) -> None:
    check_needs(parse(["--use_lm", "false", *argv]), QUIET)


def test_all_that_is_missing_is_in_one_message(recipe):
    needs("--speed_perturb_factors", "0.9 1.0")
    for name in ("sclite", "sox", "spm_train"):
        Path("bin", name).unlink()
    scripts = Path("pyscripts/audio")
    scripts.mkdir(parents=True)
    script = "import os\nimport not_there\nfrom espnet.utils.old import x\n"
    (scripts / "format_wav_scp.py").write_text(script)
    with pytest.raises(ConfigError) as error:
        needs("--speed_perturb_factors", "0.9 1.0")
    first, *lines = str(error.value).splitlines()
    assert first == "before work begins, this must be installed:"
    assert [line.split(": ")[0].strip() for line in lines] == [
        *("sox (stage 2)", "spm_train (stage 5)", "sclite (stage 13)"),
        *("not_there (stage 3, Python)", "espnet.utils.old (stage 3, Python)"),
    ]
    assert "Debian's package sctk" in lines[2] and "202511" in lines[4]


@pytest.mark.parametrize(
    "argv",
    [
        ["--stop_stage", "12"],
        ["--skip_eval", "true"],
        ["--skip_stages", "13"],
        ["--stage", "14"],
    ],
)
def test_only_what_the_stages_call_is_needed(recipe, argv):
    Path("bin/sclite").unlink()
    needs(*argv)


def test_path_sh_is_read_as_asr_sh_reads_it(recipe):
    with Path("path.sh").open("a") as script:
        script.write(". nowhere/extra_path.sh\n")
    with pytest.raises(ConfigError, match="path.sh must run: .*nowhere/extra_path.sh"):
        needs()


def test_imports_that_may_fail_are_not_needed(tmp_path):
    script = tmp_path / "a.py"
    script.write_text("import a.b, c\ntry:\n    import d\nexcept ImportError: pass\n")
    assert imports(script) == ["a.b", "c"]
    assert imports(tmp_path / "b.py") == []


def test_features_must_be_readable(recipe):
    script = Path("pyscripts/feats/feat-to-shape.py")
    script.parent.mkdir(parents=True)
    needs("--feats_type", "extracted")
    script.write_text("raise OSError('no pipes')\n")
    with pytest.raises(ConfigError, match="fails with 'OSError: no pipes'.*h5py"):
        needs("--feats_type", "extracted")
    needs("--feats_type", "raw")
    needs("--feats_type", "extracted", "--skip_stages", "3")
