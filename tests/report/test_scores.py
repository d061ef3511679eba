import random
import shutil

import jiwer
import pytest

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.report import sclite
from espnet_dynsize.report.scores import (
    error_rate,
    read_score,
    read_trn,
    write_score,
)

# As sclite prints it: centred, percentages first
RESULT = """
                     SYSTEM SUMMARY PERCENTAGES by SPEAKER
       ,----------------------------------------------------------------.
       |                            hyp.trn                             |
       |----------------------------------------------------------------|
       | SPKR   | # Snt # Wrd | Corr    Sub    Del    Ins    Err  S.Err |
       |--------+-------------+-----------------------------------------|
       | s      |    2      3 | 66.7   33.3    0.0   33.3   66.7  100.0 |
       |================================================================|
       | Sum/Avg|    2      3 | 66.7   33.3    0.0   33.3   66.7  100.0 |
       |================================================================|
       |  Mean  |  2.0    3.0 | 66.7   33.3    0.0   33.3   66.7  100.0 |
       `----------------------------------------------------------------'
"""
COUNTS = """
        | SPKR | # Snt # Wrd | Corr    Sub    Del    Ins    Err  S.Err |
        | Sum  |    2      3 |    2      1      0      1      2      2 |
"""


@pytest.fixture(autouse=True)
def no_sclite(monkeypatch):
    """What is tested must not depend on what is installed."""
    monkeypatch.setattr(shutil, "which", lambda program: None)


def write(folder, ref, hyp):
    """The same lines as words and as characters."""
    for kind in ("score_wer", "score_cer"):
        (folder / kind).mkdir(exist_ok=True, parents=True)
        (folder / kind / "ref.trn").write_bytes(ref.encode())
        (folder / kind / "hyp.trn").write_bytes(hyp.encode())


def test_error_rates(tmp_path):
    # Words: 1 substitution and 1 deletion in 4. Characters: cat → cot, and " dog" of
    # "the cat" + "a dog" deleted: 5 of 12.
    ref, hyp = {"a": "the cat", "b": "a dog"}, {"a": "the cot", "b": "a"}
    write_score(tmp_path, ref, hyp)
    assert read_score(tmp_path) == (2 / 4, 5 / 12)


def test_every_space_is_a_character(tmp_path):
    write_score(tmp_path, {"a": "A B C"}, {"a": "A  C"})
    assert (tmp_path / "score_cer" / "hyp.trn").read_text() == (
        "A <space> <space> C (a)\n"
    )
    assert read_score(tmp_path) == (1 / 3, 1 / 5)


def test_case_does_not_count(tmp_path):
    write(tmp_path, "Yes NO (S-1)\n", "yes no (s-1)\n")
    assert read_score(tmp_path).wer == 0
    # sclite sees bytes: other letters than ASCII's have their case.
    assert error_rate({"a": "É b"}, {"a": "é B"}, "x") == 1 / 2


def test_insertions_in_an_empty_reference_count(tmp_path):
    write(tmp_path, "a b (s-1)\n (s-2)\n", "a b (s-1)\nc d e (s-2)\n")
    assert read_score(tmp_path).wer == 3 / 2


def test_odd_white_space_is_no_word(tmp_path):
    write(tmp_path, "a b c (s-1)\n", "\t a  b\t\tc   \t(s-1)  \r\n\n")
    assert read_score(tmp_path).wer == 0
    # but that of Unicode is part of a word
    assert error_rate({"a": "a b"}, {"a": "a\u00a0b"}, "x") == 1
    assert error_rate({"a": "\u3000a \u00a0\u00a0 b"}, {"a": "a b"}, "x") == 2 / 3


def test_parentheses_in_words(tmp_path):
    write(tmp_path, "a(b) (c) d (s-1)\n", "a(b) c d (s-1)\n")
    assert read_score(tmp_path).wer == 1 / 3


def test_missing_hypothesis_is_an_error():
    with pytest.raises(ConfigError, match=r"1 utterances are not in both .* first b"):
        error_rate({"a": "x", "b": "y"}, {"a": "x"}, "decode/test")


def test_missing_reference_is_an_error(tmp_path):
    write(tmp_path, "a (s-1)\n", "a (s-1)\nb (s-2)\n")
    with pytest.raises(ConfigError, match=r"score_wer: 1 utterances .* first s-2"):
        read_score(tmp_path)


def test_an_utterance_twice_in_other_case(tmp_path):
    write(tmp_path, "a (s-1)\n", "a (s-1)\nb (S-1)\n")
    with pytest.raises(ConfigError, match="utterance S-1 is there twice; capital"):
        read_score(tmp_path)


@pytest.mark.parametrize("ref, hyp", [("", ""), (" (s-1)\n", "a (s-1)\n")])
def test_no_words_is_an_error(tmp_path, ref, hyp):
    write(tmp_path, ref, hyp)
    with pytest.raises(ConfigError, match="score_wer: the reference has no words"):
        read_score(tmp_path)


def test_empty_hypothesis_counts_as_deletions(tmp_path):
    trn = tmp_path / "hyp.trn"
    trn.write_text(" (spk-1)\nSOME  WORDS\t(spk-2)\n")
    assert read_trn(trn) == {"spk-1": "", "spk-2": "SOME WORDS"}
    assert (
        error_rate({"spk-1": "A B", "spk-2": "SOME WORDS"}, read_trn(trn), "x") == 0.5
    )


def test_the_rate_is_of_all_errors(tmp_path):
    ref = {"a": "one two three", "b": "four five"}
    hyp = {"a": "one too", "b": "six four five"}
    measured = jiwer.process_words(list(ref.values()), list(hyp.values()))
    errors = measured.substitutions + measured.deletions + measured.insertions
    assert errors == 3 and error_rate(ref, hyp, "x") == errors / 5


def test_syntax_that_only_sclite_knows_is_refused(tmp_path):
    write(tmp_path, "a { b / c } (s-1)\n", "a b (s-1)\n")
    with pytest.raises(ConfigError) as error:
        read_score(tmp_path)
    assert str(error.value) == (
        f"{tmp_path / 'score_wer'} must be scored with sclite, which is not installed: "
        "'a { b / c }' has what sclite does not take for words ({ }, @, word*, ;, \\)."
    )
    for kind in ("score_wer", "score_cer"):
        (tmp_path / kind / "result.txt").write_text("| Sum | 1 2 | 2 0 0 0 0 0 |")
    assert read_score(tmp_path) == (0, 0)


@pytest.mark.parametrize(
    "result, rate", [(RESULT + COUNTS, 2 / 3), (RESULT, 0.667), (COUNTS, 2 / 3)]
)
def test_sclite_s_own_numbers_come_first(tmp_path, result, rate):
    # Scored with -s: jiwer, without case, would find but the insertion.
    write(tmp_path, "a B (s-1)\nc (s-2)\n", "a b (s-1)\nc d (s-2)\n")
    for kind in ("score_wer", "score_cer"):
        (tmp_path / kind / "result.txt").write_text(result)
    assert read_score(tmp_path) == (pytest.approx(rate), pytest.approx(rate))


def test_a_result_of_other_files(tmp_path):
    write(tmp_path, "a b (s-1)\nc (s-2)\n", "a b (s-1)\nc (s-2)\n")
    (tmp_path / "score_wer" / "result.txt").write_text(RESULT + COUNTS)
    with pytest.raises(ConfigError) as error:
        read_score(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/score_wer/result.txt counts 4 words in the hypothesis, but "
        "hyp.trn has 3; score again (stage 13)."
    )


def test_a_result_of_fewer_utterances(tmp_path):
    write(tmp_path, "a b (s-1)\nc (s-2)\nd (s-3)\n", "a (s-1)\nc (s-2)\nd (s-3)\n")
    (tmp_path / "score_wer" / "result.txt").write_text(RESULT)
    message = "counts 2 utterances and 3 words, but the reference has 3 and 4; score"
    with pytest.raises(ConfigError, match=message):
        read_score(tmp_path)


def test_a_result_of_an_sclite_that_failed(tmp_path):
    write(tmp_path, "a b (s-1)\n", "a c (s-1)\n")
    (tmp_path / "score_wer" / "result.txt").write_text("sclite: not found\n")
    assert read_score(tmp_path).wer == 1 / 2


def test_sclite_is_called_where_it_is_installed(tmp_path, monkeypatch):
    program = tmp_path / "sclite"
    program.write_text(f"#!/bin/sh\necho \"$@\" > called\ncat <<'E'\n{COUNTS}\nE\n")
    program.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda program: str(tmp_path / program))
    write(tmp_path, "a b (s-1)\nc (s-2)\n", "a b (s-1)\nc (s-2)\n")
    assert read_score(tmp_path).wer == 2 / 3
    called = (tmp_path / "score_wer" / "called").read_text()
    assert called == "-r ref.trn trn -h hyp.trn trn -i rm -o rsum stdout\n"
    program.write_text("#!/bin/sh\nexit 1\n")
    assert read_score(tmp_path).wer == 0


INSTALLED = shutil.which("sclite")


def generated(seed):
    """Two trn files with all that is allowed: reference and hypothesis."""
    draw = random.Random(seed)
    known = [f"{word}{n}" for n in range(60) for word in ("Word", "émÉ", "a(b)", "<X>")]
    known += ["*", "a@", "(", ")", "}", "x\u00a0y", "\u3000", "%hm", "-", "it's", "[a]"]
    lines = {"ref": [], "hyp": []}
    for i in range(400):
        ref = [draw.choice(known) for _ in range(draw.randint(0, 12))]
        hyp = []
        for word in ref:
            kind = draw.random()
            hyp += [word.swapcase()] if kind < 0.05 else [word] if kind < 0.85 else []
            hyp += [draw.choice(known)] if kind > 0.9 else []
        for side, text in (("ref", ref), ("hyp", hyp)):
            line = draw.choice(["", " ", "\t"])
            line += "".join(word + draw.choice([" ", "\t", "  "]) for word in text)
            name = draw.choice(["s-{}", "S-{}", "s-{}"]).format(i)
            lines[side].append(f"{line}({name}){draw.choice(['', ' ', chr(13)])}\n")
    draw.shuffle(lines["hyp"])
    return "".join(lines["ref"]), "\n".join(lines["hyp"])


@pytest.mark.skipif(INSTALLED is None, reason="needs sclite")
@pytest.mark.parametrize("seed", range(5))
def test_jiwer_counts_as_sclite_does(tmp_path, monkeypatch, seed):
    write(tmp_path, *generated(seed))
    folder = tmp_path / "score_wer"
    ours = error_rate(read_trn(folder / "ref.trn"), read_trn(folder / "hyp.trn"), "x")
    monkeypatch.setattr(shutil, "which", lambda program: INSTALLED)
    assert sclite.run(folder).error_rate == ours
    assert read_score(tmp_path) == (ours, ours)
    assert 0.1 < ours < 0.5


@pytest.mark.skipif(INSTALLED is None, reason="needs sclite")
def test_sclite_counts_what_jiwer_cannot(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda program: INSTALLED)
    # Five substitutions cost it more than three deletions and three insertions.
    write(tmp_path, "1 2 3 a b (s-1)\n", "a b 4 5 6 (s-1)\n")
    assert read_score(tmp_path).wer == 6 / 5
    write(tmp_path, "a { b / @ } c* (s-1)\n", "a c (s-1)\n")
    assert read_score(tmp_path).wer == 0
