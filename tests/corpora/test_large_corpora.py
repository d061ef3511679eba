"""LibriSpeech and TED-LIUM 2, from fixtures in their exact layout."""

import gzip
import re

import numpy as np
import pytest
import soundfile
from fixture_corpora import write_librispeech, write_tedlium2

from espnet_dynsize.bin.main import main
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.corpora import librispeech, tedlium2
from espnet_dynsize.corpora.datadir import Utterance


def utterances(folder, prefix, speakers):
    """Five utterances of a second or more a speaker."""
    folder.mkdir(exist_ok=True)
    made = []
    for s in range(speakers):
        for i in range(5):
            wav = folder / f"{prefix}{s}-{i}.wav"
            soundfile.write(wav, 0.1 * np.random.RandomState(i).randn(16000), 16000)
            made.append(
                Utterance(f"{prefix}{s}-{i}", f"{prefix}{s}", wav, f"SAY {i} NOW")
            )
    return made


@pytest.fixture
def libri(tmp_path):
    train, test = (utterances(tmp_path / "a", p, n) for p, n in (("t", 5), ("e", 2)))
    write_librispeech(tmp_path / "libri", train, test)
    return tmp_path / "libri"


@pytest.fixture
def ted(tmp_path):
    train, test = (utterances(tmp_path / "a", p, n) for p, n in (("t", 4), ("e", 1)))
    write_tedlium2(tmp_path / "corpus", train, test)
    return tmp_path / "corpus"


def lines(path):
    return path.read_text().splitlines()


def test_librispeech_sets(libri, tmp_path, capsys):
    command = ["prepare", "librispeech", "--corpus_dir", str(libri)]
    assert main([*command, "--data", str(tmp_path / "data")]) == 0
    counts = {p.name: len(lines(p / "text")) for p in (tmp_path / "data").iterdir()}
    assert counts == {
        "train_960": 15,
        "dev": 10,
        "dev_clean": 5,
        "dev_other": 5,
        "test_clean": 5,
        "test_other": 5,
    }
    assert "train_960: 15 utterances" in capsys.readouterr().out
    folder = tmp_path / "data" / "train_960"
    assert lines(folder / "text")[0] == "100-1000-0000 SAY 0 NOW"
    assert lines(folder / "utt2spk")[3] == "100-1001-0000 100-1001"
    flac = libri / "LibriSpeech/train-clean-100/100/1000/100-1000-0000.flac"
    assert lines(folder / "wav.scp")[0] == f"100-1000-0000 {flac.resolve()}"
    assert not (folder / "segments").exists()


def test_librispeech_100_hours(libri, tmp_path):
    sets = librispeech.prepare(libri, tmp_path / "data", "train_clean_100")
    assert "train_960" not in sets
    assert len(lines(sets["train_clean_100"] / "text")) == 5


def break_libri(libri, what):
    part = libri / "LibriSpeech" / "dev-clean"
    chapter = min(part.glob("*/1000"))
    flac, trans = sorted(chapter.glob("*.flac"))[1], next(chapter.glob("*.txt"))
    if what == "part":
        part.rename(part.with_name("elsewhere"))
    elif what == "speaker":
        (part / "999").mkdir()
    elif what == "chapter":
        (part / "999" / "1000").mkdir(parents=True)
        (part / "999" / "1000" / "999-1000.trans.txt").touch()
    elif what == "transcripts":
        trans.unlink()
    elif what == "empty transcript":
        trans.write_text(trans.read_text().replace(" SAY 1 NOW", ""))
    elif what == "audio":
        flac.unlink()
    elif what == "unreadable":
        flac.write_bytes(flac.read_bytes()[:30])
    elif what == "cut":  # by one byte
        flac.write_bytes(flac.read_bytes()[:-1])
    elif what == "line twice":
        name = flac.stem
        trans.write_text(trans.read_text() + f"{name} SAY 1 OTHERWISE\n")
    elif what == "no samples":
        soundfile.write(flac, np.zeros(0), 16000)


@pytest.mark.parametrize(
    "what, message",
    [
        ("part", r"dev-clean does not exist: LibriSpeech's folders are"),
        ("speaker", r"dev-clean/999 has no utterances"),
        ("chapter", r"999/1000 has no utterances: 999-1000.trans.txt is empty"),
        ("transcripts", r"1000 has no \d+-1000.trans.txt"),
        ("empty transcript", r"utterance \d+-1000-0001 has an empty transcript"),
        ("audio", r"\d+-1000-0001 needs both a .flac file and a line"),
        ("unreadable", r"audio .*-0001.flac cannot be read"),
        ("no samples", r"audio .*-0001.flac (has no samples|cannot be read)"),
        ("cut", r"audio .*-0001.flac cannot be read, or not to its end"),
        ("line twice", r"\d+-1000.trans.txt: \d+-1000-0001 is there twice"),
    ],
)
def test_broken_librispeech(libri, tmp_path, what, message):
    break_libri(libri, what)
    with pytest.raises(ConfigError, match=message):
        librispeech.prepare(libri, tmp_path / "data", "train_960")
    assert not (tmp_path / "data").exists()


def test_a_path_with_a_space(tmp_path):
    train, test = (utterances(tmp_path / "a", p, n) for p, n in (("t", 5), ("e", 2)))
    write_librispeech(tmp_path / "my corpus", train, test)
    with pytest.raises(ConfigError, match="my corpus.*has a space in its path"):
        librispeech.prepare(tmp_path / "my corpus", tmp_path / "data", "train_960")


def test_language_model_texts(ted, libri, tmp_path, capsys):
    text = tmp_path / "data" / "local" / "other_text" / "text"
    command = ["--data", str(tmp_path / "data"), "--lm_text", "true"]
    ted = ["prepare", "tedlium2", "--corpus_dir", str(ted)]
    assert main([*ted, *command]) == 0
    assert lines(text)[:2] == [
        "tedlium2_lm_00000001 say 0 now",
        "tedlium2_lm_00000002 say 1 now",
    ]
    with gzip.open(libri / "librispeech-lm-norm.txt.gz", "wt") as file:
        file.write("A B\n\nC\n")
    libri = ["prepare", "librispeech", "--corpus_dir", str(libri)]
    assert main([*libri, *command]) == 0
    assert lines(text) == ["librispeech_lm_00000001 A B", "librispeech_lm_00000002 C"]


def test_language_model_texts_alone(ted, tmp_path, capsys):
    command = ["prepare", "tedlium2", "--corpus_dir", str(ted), "--lm_text", "only"]
    assert main([*command, "--data", str(tmp_path / "data")]) == 0
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["local"]


@pytest.mark.parametrize("corpus", ["librispeech", "tedlium2"])
def test_without_language_model_texts_nothing_is_written(
    libri, ted, tmp_path, capsys, corpus
):
    for path in (ted / "TEDLIUM_release2" / "LM").iterdir():
        path.unlink()
    folder = {"librispeech": libri, "tedlium2": ted}[corpus]
    command = ["prepare", corpus, "--corpus_dir", str(folder), "--lm_text", "true"]
    assert main([*command, "--data", str(tmp_path / "data")]) == 2
    assert re.search("does not exist|has no .*en.gz", capsys.readouterr().err)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("corpus", ["librispeech", "tedlium2"])
@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda packed: packed[:-9], r"\.gz is not a whole gzip file: Compressed file"),
        (lambda packed: b"A B\n", r"\.gz is not a whole gzip file: Not a gzipped"),
        (lambda packed: packed[:10] + b"\xff" * 20, r"\.gz is not a whole gz"),
        (lambda _: gzip.compress(b"CAF\xe9\n"), r"\.gz must be UTF-8 text: .*0xe9"),
        (lambda _: gzip.compress(b"\n \n"), "texts for language models have no words"),
    ],
)
def test_damaged_language_model_texts(
    libri, ted, tmp_path, capsys, corpus, damage, message
):
    folder = {"librispeech": libri, "tedlium2": ted}[corpus]
    names = {"librispeech": "librispeech-lm-norm.txt.gz"}
    path = folder / names.get(corpus, "TEDLIUM_release2/LM/train.en.gz")
    path.write_bytes(damage(gzip.compress(b"SAY 1 NOW\nSAY 2 NOW\n", mtime=0)))
    command = ["prepare", corpus, "--corpus_dir", str(folder), "--lm_text", "true"]
    assert main([*command, "--data", str(tmp_path / "data")]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert [p for p in (tmp_path / "data").rglob("*") if p.is_file()] == []


def test_a_transcript_that_is_no_text(libri, tmp_path):
    path = next((libri / "LibriSpeech" / "dev-clean").rglob("*.txt"))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=".trans.txt must be UTF-8 text"):
        librispeech.prepare(libri, tmp_path / "data", "train_960")


def test_unknown_train_set(libri, tmp_path, capsys):
    command = ["prepare", "librispeech", "--corpus_dir", str(libri)]
    assert main([*command, "--train_set", "train_100"]) == 2
    assert "train_set=train_100 must be one of" in capsys.readouterr().err


def test_tedlium2_texts_and_segments(ted, tmp_path):
    sets = tedlium2.prepare(ted, tmp_path / "data")
    assert {name: len(lines(d / "text")) for name, d in sets.items()} == {
        "train": 10,
        "dev": 10,
        "test": 5,
    }
    assert lines(sets["test"] / "text") == [
        "E0Speaker_2010-0000040-0000140 say 0 now",
        "E0Speaker_2010-0000180-0000280 say 1 now",
        "E0Speaker_2010-0000320-0000420 say 2 now it's",
        "E0Speaker_2010-0000459-0000560 say 3 now <unk>",
        "E0Speaker_2010-0000600-0000700 say 4 now",
    ]
    assert lines(sets["test"] / "segments")[0] == (
        "E0Speaker_2010-0000040-0000140 E0Speaker_2010 0.400 1.400"
    )
    # 0.4 s apart: padding of 0.15 s before and 0.1 s after fits.
    assert lines(sets["train"] / "segments")[:2] == [
        "T2Speaker_2010-0000040-0000140 T2Speaker_2010 0.250 1.500",
        "T2Speaker_2010-0000180-0000280 T2Speaker_2010 1.650 2.900",
    ]
    sph = ted / "TEDLIUM_release2/test/sph/E0Speaker_2010.sph"
    assert lines(sets["test"] / "wav.scp") == [f"E0Speaker_2010 {sph.resolve()}"]


def test_padding_is_halved_where_segments_meet():
    spans = [(0.1, 1.0), (1.1, 2.0), (3.0, 4.0)]
    segments = [Utterance(str(i), "s", None, "x", s) for i, s in enumerate(spans)]
    padded = [u.span for u in tedlium2.extended(segments)]
    # 1.0 + 0.1 and 1.1 - 0.15 overlap; they meet in the middle.
    assert padded == [pytest.approx(s) for s in ((0, 1.025), (1.025, 2.1), (2.85, 4.1))]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("i 'd say(2) <sil> it 's {NOISE}", "i'd say it's [NOISE]"),
        ("we <unk> it (AlGore-10.0-20.0-F0_M-S1)", "we <unk> it"),
        ("rock 'n 'roll", "rock'n 'roll"),
        ("<sil>", ""),
    ],
)
def test_normalised_text(text, expected):
    assert tedlium2.normalise(text) == expected


def break_ted(ted, what):
    folder = ted / "TEDLIUM_release2" / "dev"
    stm, sph = (min(folder.glob(f"{s}/*.{s}")) for s in ("stm", "sph"))
    first = stm.read_text().splitlines()[0]
    if what == "folder":
        folder.rename(folder.with_name("x"))
    elif what == "audio":
        sph.unlink()
    elif what == "empty talk":
        stm.write_text(";; nobody speaks\n")
    elif what == "line":
        stm.write_text("talk 1 talk 0.4\n")
    elif what == "empty transcript":
        stm.write_text(first.rsplit(">", 1)[0] + "> <sil>\n")
    elif what == "times":
        stm.write_text(first.replace(" 1.40 ", " 0.30 ") + "\n")
    elif what == "late":  # a segment may end half a second after the audio
        stm.write_text(first.replace(" 0.40 1.40 ", " 0.40 7.91 ") + "\n")
    elif what in ("x", "nan", "inf", "-1"):
        stm.write_text(first.replace(" 0.40 ", f" {what} ") + "\n")
    elif what == "beyond":
        stm.write_text(first.replace(" 0.40 1.40 ", " 90.0 91.0 ") + "\n")


@pytest.mark.parametrize(
    "what, message",
    [
        ("folder", r"dev must have stm/\*.stm and sph/\*.sph: give the folder"),
        ("audio", r"T0Speaker_2010 needs both a .stm and a .sph file"),
        ("empty talk", r"the talk has no utterances"),
        ("line", r"'talk 1 talk 0.4' must be: talk channel speaker start end"),
        ("empty transcript", r"0000040-0000140 has an empty transcript"),
        ("times", r"\.stm: '.* 0.40 0.30 .*' must have a start and a later"),
        ("x", r"\.stm: '.* x 1.40 .*' must have a start and"),
        ("nan", r"\.stm: '.* nan 1.40 .*' must have a start and"),
        ("inf", r"\.stm: '.* inf 1.40 .*' must have a start and"),
        ("-1", r"\.stm: '.* -1 1.40 .*' must have a start and"),
        ("late", r"0000791 ends at 7.91 s, but .*.sph is only 7.40 s long"),
        ("beyond", r"begins at 90.0 s, but .*.sph is only 7.40 s long"),
    ],
)
def test_broken_tedlium2(ted, tmp_path, what, message):
    break_ted(ted, what)
    with pytest.raises(ConfigError, match=message):
        tedlium2.prepare(ted, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_segment_may_end_a_little_after_the_audio(ted, tmp_path):
    stm = min((ted / "TEDLIUM_release2" / "dev").glob("stm/*.stm"))
    first = stm.read_text().splitlines()[0]
    stm.write_text(first.replace(" 0.40 1.40 ", " 0.40 7.90 ") + "\n")
    sets = tedlium2.prepare(ted, tmp_path / "data")
    assert lines(sets["dev"] / "segments")[0].endswith(" 0.400 7.900")


def test_times_of_the_training_set_are_read_before_they_are_padded(ted, tmp_path):
    """With the padding, a segment that ends before it begins has a length."""
    stm = min((ted / "TEDLIUM_release2" / "train").glob("stm/*.stm"))
    stm.write_text(stm.read_text().replace(" 0.40 1.40 ", " 0.40 0.30 "))
    with pytest.raises(ConfigError, match="0.40 0.30 .*' must have a start and"):
        tedlium2.prepare(ted, tmp_path / "data")
