import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_dynsize.bin.main import main
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.corpora import an4
from espnet_dynsize.corpora.datadir import Utterance, write_data_dirs
from espnet_dynsize.demo import digits


def write_an4(folder: Path, train: list[str], test: list[str]) -> Path:
    """An AN4 folder with these lines as transcripts, and noise as audio."""
    (folder / "etc").mkdir(parents=True)
    for split, lines in (("train", train), ("test", test)):
        names = [line.rsplit("(", 1)[1].rstrip(")") for line in lines]
        stems = [f"an4_{split}/{name.split('-')[1]}/{name}" for name in names]
        (folder / "etc" / f"an4_{split}.transcription").write_text("\n".join(lines))
        (folder / "etc" / f"an4_{split}.fileids").write_text("\n".join(stems))
        for stem in stems:
            wav = folder / "wav" / f"{stem}.wav"
            wav.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(wav, np.full(160, 0.1), 16000)
    return folder


def sentences(count: int) -> list[str]:
    return [f"<s> A B </s> (an{i}-f{i % 5}-b)" for i in range(count)]


def test_an4_transcripts_with_and_without_sentence_marks(tmp_path):
    corpus = write_an4(tmp_path, ["<s> GO ON </s> (an1-fash-b)"], ["YES (cen2-fcaw-b)"])
    (train,) = an4.read_split(corpus, "train")
    assert (train.id, train.speaker, train.text) == ("fash-an1-b", "fash", "GO ON")
    (test,) = an4.read_split(corpus, "test")
    assert (test.id, test.text) == ("fcaw-cen2-b", "YES")
    assert test.wav == (tmp_path / "wav/an4_test/fcaw/cen2-fcaw-b.wav").resolve()


def test_an4_split_is_that_of_the_espnet_recipe(tmp_path):
    corpus = write_an4(tmp_path / "an4", sentences(110), ["B (an1-x-b)"])
    dirs = an4.prepare(corpus, tmp_path / "data")
    ids = {s: (d / "text").read_text().splitlines() for s, d in dirs.items()}
    assert {s: len(lines) for s, lines in ids.items()} == {
        "train": 10,
        "valid": 100,
        "test": 1,
    }
    assert max(ids["valid"]) < min(ids["train"])


def test_folds_of_speakers(tmp_path, monkeypatch):
    """Eleven speakers with three utterances each, two of them in the test set."""
    monkeypatch.setattr(an4, "VALID_UTTERANCES", 4)
    lines = [f"<s> A B </s> (an{i}-f{i % 11:02}-b)" for i in range(33)]
    known = [line for line in lines if "-f0" in line]
    corpus = write_an4(tmp_path / "an4", known, [x for x in lines if x not in known])
    folds = an4.read_folds(corpus)
    assert folds == an4.read_folds(corpus)
    speakers = [{u.speaker for u in fold} for fold in folds]
    assert list(map(len, speakers)) == [3, 2, 2, 2, 2]
    assert len(set.union(*speakers)) == 11 and sum(map(len, folds)) == 33
    for fold in range(5):
        splits = an4.fold_splits(folds, fold)
        assert splits["test"] == folds[fold]
        # Four utterances are of two speakers; the two others of theirs are left out.
        assert splits["valid"] == folds[(fold + 1) % 5][:4]
        sizes = {name: len(utterances) for name, utterances in splits.items()}
        assert sizes["train"] == 33 - sizes["test"] - 4 - 2
        sets = [{u.speaker for u in part} for part in splits.values()]
        assert sum(map(len, sets)) == len(set.union(*sets))
        dirs = an4.prepare(corpus, tmp_path / f"data{fold}", fold)
        counts = {
            s: len((d / "text").read_text().splitlines()) for s, d in dirs.items()
        }
        assert counts == sizes


def test_a_folder_that_is_not_an4(tmp_path):
    with pytest.raises(ConfigError, match="is not an AN4 folder"):
        an4.read_split(tmp_path, "train")


def break_an4(corpus: Path, what: str) -> None:
    transcription = corpus / "etc" / "an4_train.transcription"
    fileids = corpus / "etc" / "an4_train.fileids"
    lines, stems = transcription.read_text().split("\n"), fileids.read_text().split()
    wav = corpus / "wav" / f"{stems[7]}.wav"
    if what == "empty transcript":
        lines[7] = "<s> </s> (an7-f2-b)"
    elif what == "no words at all":
        lines[7] = "(an7-f2-b)"
    elif what == "garbage":
        lines[7] = "what is this?"
    elif what == "doubled":
        lines.append(lines[7])
    elif what == "doubled file":
        stems.append(f"elsewhere/{Path(stems[7]).name}")
    elif what == "few":
        lines = lines[:100]
    elif what == "none":
        lines = []
    elif what == "no file":
        del stems[7]
    elif what == "no files":
        stems = []
    elif what == "no audio":
        wav.unlink()
    elif what == "no samples":
        soundfile.write(wav, np.zeros(0), 16000)
    elif what == "empty audio":
        wav.write_bytes(b"")
    transcription.write_text("\n".join(lines))
    fileids.write_text("\n".join(stems))
    if what == "no text":
        transcription.write_bytes(b"\xff\xfe\x00")


@pytest.mark.parametrize(
    "what, message",
    [
        ("empty transcript", "an4_train.transcription: .* f2-an7-b has an empty trans"),
        ("no words at all", "an4_train.transcription: .* f2-an7-b has an empty trans"),
        (
            "garbage",
            r"an4_train.transcription: 'what is this\?' must be: <s> TEXT </s>",
        ),
        ("doubled", "an4_train.transcription: utterance f2-an7-b is there twice"),
        ("doubled file", "an4_train.fileids: an7-f2-b is there twice"),
        ("few", "an4_train.transcription: .* utterances, 100, must be more than 100"),
        ("none", "an4_train.transcription has no utterances"),
        ("no file", "an4_train.fileids has no an7-f2-b, which is in .*transcription"),
        ("no files", "an4_train.fileids has no an0-f0-b, which is in .*transcription"),
        ("no audio", "an7-f2-b has no audio: a .flac, .wav or .sph file must exist"),
        ("no samples", "audio .*an7-f2-b.wav has no samples"),
        ("empty audio", "audio .*an7-f2-b.wav cannot be read"),
        ("no text", "an4_train.transcription must be UTF-8 text"),
    ],
)
def test_broken_an4(tmp_path, capsys, what, message):
    corpus = write_an4(tmp_path / "an4", sentences(101), ["B (an1-x-b)"])
    break_an4(corpus, what)
    command = ["prepare", "an4", "--corpus_dir", str(corpus)]
    assert main([*command, "--data", str(tmp_path / "data")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("lm_text", ["true", "only"])
def test_an4_has_no_texts_for_language_models(tmp_path, capsys, lm_text):
    corpus = write_an4(tmp_path / "an4", sentences(101), ["B (an1-x-b)"])
    command = ["prepare", "an4", "--corpus_dir", str(corpus), "--lm_text", lm_text]
    assert main([*command, "--data", str(tmp_path / "data")]) == 2
    message = f"lm_text={lm_text} must be false for an4, which has no texts"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_data_dir(tmp_path):
    utterances = [
        Utterance("s2-b", "s2", Path("/w/b.wav"), "B C"),
        Utterance("s1-a", "s1", Path("/w/a.wav"), "A"),
        Utterance("s2-a", "s2", Path("/w/c.wav"), "D"),
    ]
    write_data_dirs(tmp_path, {"d": utterances})
    read = {p.name: p.read_text() for p in (tmp_path / "d").glob("[!.]*")}
    assert read == {
        "wav.scp": "s1-a /w/a.wav\ns2-a /w/c.wav\ns2-b /w/b.wav\n",
        "text": "s1-a A\ns2-a D\ns2-b B C\n",
        "utt2spk": "s1-a s1\ns2-a s2\ns2-b s2\n",
        "spk2utt": "s1 s1-a\ns2 s2-a s2-b\n",
    }


def test_digits_are_planned_the_same_every_time():
    first = digits.plan("train", 40)
    assert first == digits.plan("train", 40)
    assert all(2 <= len(u.text.split()) <= 5 for u in first)
    assert len({u.id for u in first}) == 40
    assert not set(digits.TRAIN_VOICES) & set(digits.TEST_VOICES)


def test_digits_are_spoken_the_same_every_time(tmp_path, monkeypatch):
    pytest.importorskip("espeakng_loader")
    monkeypatch.setattr(digits, "COUNTS", {"train": 2, "test": 1})
    texts = []
    for run in ("a", "b"):
        dirs = digits.prepare(tmp_path / run / "audio", tmp_path / run / "data")
        texts.append((dirs["train"] / "text").read_text())
    names = [p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.wav")]
    assert len(names) == 3 and texts[0] == texts[1]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (
            tmp_path / "b" / name
        ).read_bytes()
        samples, rate = soundfile.read(tmp_path / "a" / name)
        assert rate == digits.RATE and 0.5 < len(samples) / rate < 4
        assert abs(samples).max() > 0.05


def test_a_user_s_data_directory_is_left_alone(tmp_path):
    one = [Utterance("s1-a", "s1", Path("/w/a.wav"), "A", (0.0, 1.0))]
    two = [Utterance("s1-a", "s1", Path("/w/a.wav"), "B")]
    write_data_dirs(tmp_path, {"d": one})
    write_data_dirs(tmp_path, {"d": two})  # its own, with segments, are replaced
    assert not (tmp_path / "d" / "segments").exists()
    (tmp_path / "d" / "segments").write_text("mine")
    with pytest.raises(ConfigError, match="d/segments was not written by espnet-dyn"):
        write_data_dirs(tmp_path, {"e": one, "d": two})
    assert not (tmp_path / "e").exists()
    (tmp_path / "d" / "segments").unlink()
    (tmp_path / "d" / "text").write_text("mine")
    with pytest.raises(ConfigError, match="d/text was not written"):
        write_data_dirs(tmp_path, {"d": two})
    assert (tmp_path / "d" / "text").read_text() == "mine"
    (tmp_path / "d" / "text").write_text("s1-a B\n")  # as it would be
    write_data_dirs(tmp_path, {"d": two})
