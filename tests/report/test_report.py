import csv
import hashlib
import math
import shutil

import pytest
import torch
import yaml
from conftest import build, fix_masks, model_config, stock_config

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy.extract import extract
from espnet_dynsize.report import measure, table
from espnet_dynsize.report.scores import write_score
from espnet_dynsize.report.write import write_report

MODEL = "valid.loss.ave.pth"


@pytest.fixture
def family(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "REPEATS", 1)
    config = model_config()
    model = build(config)
    fix_masks(model.schedule)
    exp = tmp_path / "exp" / "asr"
    exp.mkdir(parents=True)
    (exp / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save(model.state_dict(), exp / MODEL)
    return model, [extracted.directory for extracted in extract(exp, MODEL, [])]


@pytest.fixture
def unmeasured(monkeypatch):
    """Nothing may be loaded or measured."""

    def fail(*args):
        raise AssertionError("work has begun")

    monkeypatch.setattr(table, "load_model", fail)
    monkeypatch.setattr(measure, "flops_per_second", fail)


def decode(folder, hypothesis, inference="decode_x", name="test"):
    write_score(folder / inference / name, {"spk-1": "A B C D"}, {"spk-1": hypothesis})


def read_csv(output):
    with (output / "report.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_report_of_a_family(family, capsys):
    model, folders = family
    for folder, hypothesis in zip(folders, ("A", "A B", "A B C D")):
        decode(folder, hypothesis)
    output = write_report(folders[::-1])
    assert output == folders[0].parent / "report"
    rows = read_csv(output)
    assert [row["layers"] for row in rows] == ["3", "5", "8"]
    assert [row["WER test %"] for row in rows] == ["75.0", "50.0", "0.0"]
    assert [row["model"] for row in rows] == [f.name for f in folders]
    full = {n: p for n, p in model.named_parameters() if "by_size" not in n}
    full.pop("schedule.selection.selector.scores")
    parameters = sum(p.numel() for p in full.values())
    assert int(rows[-1]["parameters"]) == parameters
    assert float(rows[0]["MFLOPs / s audio"]) <= float(rows[-1]["MFLOPs / s audio"])
    text = (output / "report.md").read_text()
    assert text.count("\n| asr_size") == 3 and text in capsys.readouterr().out
    assert f" {parameters:,} " in text
    assert "RTF: the encoder and a CTC output alone, on 10 s of noise" in text
    for picture in ("wer.png", "layers.png"):
        assert (output / picture).read_bytes().startswith(b"\x89PNG")


def test_csv_has_numbers(family, monkeypatch):
    folders = family[1]
    monkeypatch.setattr(measure, "count_parameters", lambda model: 1_234_567)
    monkeypatch.setattr(measure, "flops_per_second", lambda run: 1_234_567_890.125)
    monkeypatch.setattr(measure, "real_time_factors", lambda runs: [1 / 3, math.nan])
    write_score(folders[0] / "d" / "test", {"s-1": "A B C"}, {"s-1": "A B"})
    output = write_report(folders[:2])
    first, second = read_csv(output)
    size = (folders[0] / MODEL).stat().st_size
    assert first == {
        "model": "asr_size3",
        "layers": "3",
        "parameters": "1234567",
        "MFLOPs / s audio": "1234.567890125",
        "file MB": str(size / 1e6),
        "RTF": str(1 / 3),
        "WER test %": str(100 * (1 / 3)),
        "CER test %": str(100 * (2 / 5)),
    }
    assert [second[name] for name in ("RTF", "WER test %", "CER test %")] == 3 * [""]
    text = (output / "report.md").read_text()
    assert "| 1,234,567 | 1234.6 |" in text and "| 33.3 | 40.0 |" in text
    assert "| – | – | – |" in text and "nan" not in text


def test_zeroed_layers_of_stock_folders_are_none(family):
    exp = family[1][0].parent / "asr"
    ((directory, *_),) = extract(exp, MODEL, [3], format="stock")
    (row,) = read_csv(write_report([directory]))
    assert row["layers"] == "3"


def test_with_audio_the_whole_recogniser_is_timed(family, monkeypatch, tmp_path):
    folders, audio = family[1][:2], [tmp_path / "a.wav", tmp_path / "b.wav"]
    for path in audio:
        path.touch()
    recognisers = {f: measure.Run(lambda: None, 2.0) for f in folders}

    def recogniser_run(folder, checkpoint, given):
        assert (checkpoint, given) == (MODEL, audio)
        return recognisers[folder]

    def real_time_factors(runs):
        assert runs == [recognisers[folder] for folder in folders]
        return [0.25, 0.5]

    monkeypatch.setattr(measure, "recogniser_run", recogniser_run)
    monkeypatch.setattr(measure, "real_time_factors", real_time_factors)
    output = write_report(folders, audio=audio)
    assert [row["RTF"] for row in read_csv(output)] == ["0.25", "0.5"]
    text = (output / "report.md").read_text()
    assert "RTF: the whole recogniser, on 2.0 s of audio (2 files)" in text


def test_report_without_scores(family):
    output = write_report(family[1])
    assert "WER" not in (output / "report.md").read_text()
    assert not (output / "wer.png").exists()


def test_every_decoding_has_its_column(family):
    folders = family[1]
    decode(folders[0], "A B C D", "decode_a")
    decode(folders[0], "", "decode_b")
    decode(folders[1], "A B", "decode_a")
    decode(folders[1], "A", "decode_a", "dev")
    rows = read_csv(write_report(folders[:2]))
    names = [name for name in rows[0] if "WER" in name]
    assert names == ["WER dev %", "WER decode_a/test %", "WER decode_b/test %"]
    assert [[row[name] for name in names] for row in rows] == [
        ["", "0.0", "100.0"],
        ["75.0", "50.0", ""],
    ]


def test_sizes_decoded_in_different_ways_share_no_column(family):
    folders = family[1]
    decode(folders[0], "A", "decode_greedy_asr_model_valid.loss.ave")
    decode(folders[1], "A B", "decode_beam_asr_model_valid.loss.ave")
    text = (write_report(folders[:2]) / "report.md").read_text()
    assert "| WER decode_beam/test % | CER decode_beam/test % | WER decode_gr" in text


def test_decodings_of_another_checkpoint_are_left_out(family):
    folders = family[1]
    decode(folders[0], "A B C D", "decode_asr_model_valid.loss.ave")
    other = folders[0] / "decode_asr_model_valid.acc.ave" / "test"
    decode(folders[0], "A", "decode_asr_model_valid.acc.ave")
    output = write_report(folders[:1], model_file=MODEL)
    assert [row["WER test %"] for row in read_csv(output)] == ["0.0"]
    expected = f"\nLeft out: {other}, decoded with another checkpoint than {MODEL}.\n"
    assert expected in (output / "report.md").read_text()


def test_empty_hypotheses_are_a_warning(family, capsys):
    folder = family[1][0]
    decode(folder, "")
    output = write_report([folder])
    warning = f"Warning: every hypothesis in {folder / 'decode_x' / 'test'} is empty"
    assert warning in (output / "report.md").read_text()
    assert warning in capsys.readouterr().out
    assert read_csv(output)[0]["WER test %"] == "100.0"


def test_a_report_again(family):
    folders = family[1]
    decode(folders[0], "A")
    output = write_report(folders[:1])
    shutil.rmtree(folders[0] / "decode_x")
    assert write_report(folders[:1]) == output
    assert "WER" not in (output / "report.md").read_text()
    # It would show what is no longer there.
    assert not (output / "wer.png").exists()


@pytest.mark.parametrize("name", ["report.md", "report.csv", "wer.png", "layers.png"])
def test_a_user_s_file_is_kept(family, unmeasured, name):
    path = family[1][0].parent / "report" / name
    path.parent.mkdir()
    path.write_text("mine")
    with pytest.raises(ConfigError, match=f"{name} was not written by espnet-dynsize"):
        write_report(family[1])
    assert path.read_text() == "mine" and list(path.parent.iterdir()) == [path]


def test_output_below_a_file(family, unmeasured, tmp_path):
    (tmp_path / "taken").write_text("mine")
    for output in (tmp_path / "taken", tmp_path / "taken" / "report"):
        with pytest.raises(ConfigError) as error:
            write_report(family[1], output_dir=output)
        assert str(error.value) == (
            f"output_dir={output} must be a folder that can be written, but "
            f"{tmp_path / 'taken'} is a file."
        )


def test_what_is_no_model_s_folder(family, unmeasured, tmp_path):
    folders = family[1]
    archive = tmp_path / "exp" / "asr_size8.zip"
    archive.write_bytes(b"PK")
    unfinished = tmp_path / "exp" / ".asr_size8.host.12.unfinished"
    unfinished.mkdir()
    (tmp_path / "exp" / "asr_size9").mkdir()
    for path, message in (
        (archive, f"{archive} is a file: report needs the folders of trained models."),
        (tmp_path / "none", f"{tmp_path / 'none'} does not exist: report needs"),
        (unfinished, f"{unfinished} was left by a process that was killed; remove it."),
        (tmp_path / "exp" / "asr_size9", "asr_size9 has no config.yaml"),
    ):
        with pytest.raises(ConfigError) as error:
            write_report([*folders, path])
        assert message in str(error.value)
    assert not (tmp_path / "exp" / "report").exists()


@pytest.mark.parametrize("change", ["checkpoint", "config", "trn", "audio"])
def test_nothing_is_measured_where_one_folder_is_bad(family, monkeypatch, change):
    folders = family[1]
    measured = []
    monkeypatch.setattr(measure, "flops_per_second", lambda run: measured.append(run))
    monkeypatch.setattr(measure, "real_time_factors", lambda run: measured.append(run))
    bad, audio = folders[-1], []
    if change == "checkpoint":
        shutil.copy(folders[0] / MODEL, bad / MODEL)
    elif change == "config":
        (bad / "config.yaml").write_text("- no\n- config\n")
    elif change == "trn":
        decode(bad, "A")
        (bad / "decode_x" / "test" / "score_cer" / "hyp.trn").write_text("no id\n")
    else:
        audio = [bad / "none.wav"]
    with pytest.raises(ConfigError, match=str(bad)):
        write_report(folders, audio=audio)
    assert measured == [] and not (bad.parent / "report").exists()


def test_an_encoder_without_blocks(family, tmp_path):
    config = stock_config() | {"encoder": "rnn"}
    config["encoder_conf"] = dict(num_layers=1, hidden_size=4, output_size=4)
    folder = tmp_path / "rnn"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save(build(config).state_dict(), folder / MODEL)
    with pytest.raises(ConfigError) as error:
        write_report([family[1][0], folder])
    assert str(error.value).startswith(f"{folder}: encoder=rnn has no blocks whose")


def test_models_are_named_apart(family, tmp_path, monkeypatch):
    folder = family[1][0]
    (tmp_path / "other").mkdir()
    shutil.copytree(folder, tmp_path / "other" / folder.name)
    monkeypatch.chdir(folder)
    rows = read_csv(write_report([".", folder, folder / "." / ""]))
    assert [row["model"] for row in rows] == [folder.name]
    monkeypatch.chdir(tmp_path)
    given = [f"exp/{folder.name}", f"other/{folder.name}"]
    assert [row["model"] for row in read_csv(write_report(given))] == given


def test_two_averages_must_be_named(family):
    folder = family[1][0]
    (folder / "valid.acc.ave.pth").write_bytes((folder / MODEL).read_bytes())
    with pytest.raises(ConfigError, match="model_file must name one of"):
        write_report([folder])
    write_report([folder], model_file=MODEL)


def test_all_is_written_whole_and_recorded(family):
    output = write_report(family[1][:1])
    record = (output / ".written_by_espnet_dynsize").read_text()
    for name in ("report.md", "report.csv", "layers.png"):
        digest = hashlib.sha256((output / name).read_bytes()).hexdigest()
        assert f"{digest}  {name}\n" in record
