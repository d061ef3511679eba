import io
import sys

import pytest
import torch
import yaml
from conftest import build, fix_masks, model_config

from espnet_dynsize.bin.main import main
from espnet_dynsize.report import measure
from espnet_dynsize.report.scores import write_score

MODEL = "valid.loss.ave.pth"


@pytest.fixture
def exp(tmp_path, monkeypatch):
    """Two models, `m1` and `m2`, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measure, "REPEATS", 1)
    for name in ("m1", "m2"):
        config = model_config()
        model = build(config)
        fix_masks(model.schedule)
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(config))
        torch.save(model.state_dict(), tmp_path / name / MODEL)
    return tmp_path


def decode(folder, hypothesis):
    write_score(folder, {"s-1": "A B C D"}, {"s-1": hypothesis})


def test_two_decodings_of_one_test_set(exp, capsys):
    decode(exp / "m1" / "decode_a" / "test", "A B C")
    decode(exp / "m1" / "decode_b" / "test", "")
    decode(exp / "m2" / "decode_a" / "test", "A")
    assert main(["report", "m1", "m2"]) == 0
    out = capsys.readouterr().out
    header, _, *rows = [line for line in out.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row.split("|")] for row in (header, *rows)]
    names = [f"{kind} decode_{x}/test %" for x in "ab" for kind in ("WER", "CER")]
    assert cells[0][-5:-1] == names
    assert [row[1] for row in cells[1:]] == ["m1", "m2"]
    assert cells[1][-5:-1] == ["25.0", "28.6", "100.0", "100.0"]
    assert cells[2][-5:-1] == ["75.0", "85.7", "–", "–"]
    assert "every hypothesis in m1/decode_b/test is empty" in out


def refused(capsys, *arguments):
    """The one sentence with which a report is refused."""
    assert main(["report", *arguments]) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err and "RTF" not in captured.out
    lines = [line for line in captured.err.splitlines() if "error:" in line]
    (line,) = lines
    return line.removeprefix("espnet-dynsize: error: ")


def damage(score):
    """Damages of a folder with scores, and what is said of each."""
    hyp, wer = score / "hyp.trn", f"{score}/hyp.trn"
    yield lambda: hyp.write_text("A B C D\n"), f"{wer}: line 1 must end with its utter"
    yield lambda: hyp.write_bytes(b"\xff (s-1)\n"), f"{wer}: line 1 must be UTF-8"
    yield lambda: hyp.write_text("A (s-1)\nB (s-1)\n"), f"{wer}: line 2 has utterance"
    yield lambda: hyp.write_text(""), f"{score}: 1 utterances are not in both"
    yield (
        lambda: hyp.write_text("@ (s-1)\n"),
        f"{score} must be scored with sclite",
    )
    yield lambda: hyp.unlink(), f"{wer} does not exist"
    yield lambda: (score / "ref.trn").unlink(), f"{score}/ref.trn does not exist"


def test_trn_files_that_cannot_be_scored(exp, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    decoded = exp / "m2" / "decode_a" / "test"
    for change, message in damage(decoded / "score_wer"):
        decode(decoded, "A")
        change()
        sentence = refused(capsys, "m1", str(exp / "m2"))
        assert sentence.startswith(message)
    assert not (exp / "report").exists()


def test_output_and_folders_that_cannot_be_used(exp, capsys):
    (exp / "m3").write_text("a file")
    (exp / "report").mkdir()
    (exp / "report" / "report.md").write_text("mine")
    assert refused(capsys, "m1", "--output_dir", "m3").startswith(
        "output_dir=m3 must be a folder that can be written, but m3 is a file."
    )
    sentence = refused(capsys, "m1")
    assert "report/report.md was not written by espnet-dynsize" in sentence
    assert refused(capsys, "m1", "m3", "--output_dir", "new") == (
        "m3 is a file: report needs the folders of trained models."
    )
    assert (exp / "report" / "report.md").read_text() == "mine"
    assert not (exp / "new").exists()


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_on_a_terminal_only(exp, monkeypatch, terminal):
    class Stream(io.StringIO):
        def isatty(self):
            return terminal

    monkeypatch.setattr(sys, "stderr", Stream())
    assert main(["report", "m1", "m2"]) == 0
    progress = sys.stderr.getvalue()
    assert ("loading" in progress and "timing" in progress) is terminal
    assert ("%|" in progress) is terminal
