import pytest

from espnet_dynsize.errors import ConfigError
from espnet_dynsize.report.scores import find_scores, read_trn, score


def test_error_rates():
    # 1 substitution, 1 deletion in 4 words; "cat" → "cot", " d" gone with "dog"…
    result = score({"a": "the cat", "b": "a dog"}, {"a": "the cot", "b": "a"}, "x")
    assert result.wer == 2 / 4
    assert result.cer == 5 / 12  # a→o, and " dog" deleted


def test_missing_hypothesis_is_an_error():
    with pytest.raises(ConfigError, match=r"1 utterances are not in both .* first b"):
        score({"a": "x", "b": "y"}, {"a": "x"}, "decode/test")


def test_no_words_is_an_error():
    with pytest.raises(ConfigError, match="no words"):
        score({}, {}, "decode/test")


def test_empty_hypothesis_counts_as_deletions(tmp_path):
    trn = tmp_path / "hyp.trn"
    trn.write_text(" (spk-1)\nSOME  WORDS\t(spk-2)\n")
    assert read_trn(trn) == {"spk-1": "", "spk-2": "SOME WORDS"}
    assert score({"spk-1": "A B", "spk-2": "SOME WORDS"}, read_trn(trn), "x").wer == 0.5


def test_every_test_set_is_found(tmp_path):
    for name, hyp in (("test_a", "YES"), ("test_b", "NO")):
        folder = tmp_path / "inference_x" / name / "score_wer"
        folder.mkdir(parents=True)
        (folder / "ref.trn").write_text("YES (s-1)\n")
        (folder / "hyp.trn").write_text(f"{hyp} (s-1)\n")
    scores = find_scores(tmp_path)
    assert {name: s.wer for name, s in scores.items()} == {"test_a": 0.0, "test_b": 1.0}
