import csv

import pytest
import torch
import yaml
from conftest import build, fix_masks, model_config

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy.extract import extract
from espnet_dynsize.report.scores import write_score
from espnet_dynsize.report.write import write_report

MODEL = "valid.loss.ave.pth"


@pytest.fixture
def family(tmp_path):
    config = model_config()
    model = build(config)
    fix_masks(model.schedule)
    exp = tmp_path / "exp" / "asr"
    exp.mkdir(parents=True)
    (exp / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save(model.state_dict(), exp / MODEL)
    return model, [extracted.directory for extracted in extract(exp, MODEL, [])]


def test_report_of_a_family(family, capsys):
    model, folders = family
    for folder, hypothesis in zip(folders, ("A", "A B", "A B C D")):
        decoded = folder / "decode_x" / "test"
        write_score(decoded, {"spk-1": "A B C D"}, {"spk-1": hypothesis})
    output = write_report(folders[::-1])
    assert output == folders[0].parent / "report"
    with (output / "report.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["layers"] for row in rows] == ["3", "5", "8"]
    assert [row["WER test %"] for row in rows] == ["75.0", "50.0", "0.0"]
    assert [row["model"] for row in rows] == [f.name for f in folders]
    full = {n: p for n, p in model.named_parameters() if "by_size" not in n}
    full.pop("schedule.selection.selector.scores")
    parameters = sum(p.numel() for p in full.values())
    assert rows[-1]["parameters"] == f"{parameters:,}"
    assert float(rows[0]["MFLOPs / s audio"]) <= float(rows[-1]["MFLOPs / s audio"])
    text = (output / "report.md").read_text()
    assert text.count("\n| asr_size") == 3 and text in capsys.readouterr().out
    assert "RTF: the encoder and a CTC output alone, on 10 s of noise" in text
    for picture in ("wer.png", "layers.png"):
        assert (output / picture).read_bytes().startswith(b"\x89PNG")


def test_report_without_scores(family):
    output = write_report(family[1])
    assert "WER" not in (output / "report.md").read_text()
    assert not (output / "wer.png").exists()


def test_two_averages_must_be_named(family):
    folder = family[1][0]
    (folder / "valid.acc.ave.pth").write_bytes((folder / MODEL).read_bytes())
    with pytest.raises(ConfigError, match="name one with model_file"):
        write_report([folder])
    write_report([folder], model_file=MODEL)
