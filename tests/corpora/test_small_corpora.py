from pathlib import Path

import pytest
import soundfile

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.corpora import an4
from espnet_dynsize.corpora.datadir import Utterance, write_data_dir
from espnet_dynsize.demo import digits


def fake_an4(folder: Path, lines: dict) -> Path:
    (folder / "etc").mkdir(parents=True)
    for split, texts in lines.items():
        ids = [line.rsplit("(", 1)[1].rstrip(")") for line in texts]
        paths = [f"an4_{split}/{i.split('-')[1]}/{i}" for i in ids]
        (folder / "etc" / f"an4_{split}.transcription").write_text("\n".join(texts))
        (folder / "etc" / f"an4_{split}.fileids").write_text("\n".join(paths))
        for path in paths:
            wav = folder / "wav" / f"{path}.wav"
            wav.parent.mkdir(parents=True, exist_ok=True)
            wav.touch()
    return folder


def test_an4_transcripts_with_and_without_sentence_marks(tmp_path):
    corpus = fake_an4(
        tmp_path,
        {"train": ["<s> GO ON </s> (an1-fash-b)"], "test": ["YES (cen2-fcaw-b)"]},
    )
    (train,) = an4.read_split(corpus, "train")
    assert (train.id, train.speaker, train.text) == ("fash-an1-b", "fash", "GO ON")
    (test,) = an4.read_split(corpus, "test")
    assert (test.id, test.text) == ("fcaw-cen2-b", "YES")
    assert test.wav == (tmp_path / "wav/an4_test/fcaw/cen2-fcaw-b.wav").resolve()


def test_an4_split_is_that_of_the_espnet_recipe(tmp_path):
    texts = [f"<s> A </s> (an{i}-f{i % 5}-b)" for i in range(110)]
    corpus = fake_an4(tmp_path / "an4", {"train": texts, "test": ["B (an1-x-b)"]})
    dirs = an4.prepare(corpus, tmp_path / "data")
    ids = {s: (d / "text").read_text().splitlines() for s, d in dirs.items()}
    assert {s: len(lines) for s, lines in ids.items()} == {
        "train": 10,
        "valid": 100,
        "test": 1,
    }
    assert max(ids["valid"]) < min(ids["train"])


def test_a_folder_that_is_not_an4(tmp_path):
    with pytest.raises(ConfigError, match="is not an AN4 folder"):
        an4.read_split(tmp_path, "train")


def test_data_dir(tmp_path):
    utterances = [
        Utterance("s2-b", "s2", Path("/w/b.wav"), "B C"),
        Utterance("s1-a", "s1", Path("/w/a.wav"), "A"),
        Utterance("s2-a", "s2", Path("/w/c.wav"), "D"),
    ]
    write_data_dir(tmp_path / "d", utterances)
    read = {p.name: p.read_text() for p in (tmp_path / "d").iterdir()}
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
