import pytest

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.report.scores import (
    error_rate,
    find_scores,
    read_score,
    read_trn,
    write_score,
)


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


def test_missing_hypothesis_is_an_error():
    with pytest.raises(ConfigError, match=r"1 utterances are not in both .* first b"):
        error_rate({"a": "x", "b": "y"}, {"a": "x"}, "decode/test")


def test_no_words_is_an_error():
    with pytest.raises(ConfigError, match="no words"):
        error_rate({}, {}, "decode/test")


def test_empty_hypothesis_counts_as_deletions(tmp_path):
    trn = tmp_path / "hyp.trn"
    trn.write_text(" (spk-1)\nSOME  WORDS\t(spk-2)\n")
    assert read_trn(trn) == {"spk-1": "", "spk-2": "SOME WORDS"}
    assert (
        error_rate({"spk-1": "A B", "spk-2": "SOME WORDS"}, read_trn(trn), "x") == 0.5
    )


def test_every_test_set_is_found(tmp_path):
    for name, hyp in (("test_a", "YES"), ("test_b", "NO")):
        folder = tmp_path / "inference_x" / name
        write_score(folder, {"s-1": "YES"}, {"s-1": hyp})
    scores = find_scores(tmp_path)
    assert {name: s.wer for name, s in scores.items()} == {"test_a": 0.0, "test_b": 1.0}
