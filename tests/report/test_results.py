import re

import pytest

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.report.results import check_decoded, results

RESULT = """
     | SPKR    | # Snt # Wrd | Corr    Sub    Del    Ins    Err  S.Err |
|  Sum/Avg  |    {sentences}     {words}   |  50.0   25.0   25.0   0.0   50.0   66.7   |
|   Mean    |  1.0  2.0 | 50.0 25.0 25.0 0.0 50.0 66.7 |
"""
TEXT = "s-1 A B\ns-2 C\ns-3 D\n"


@pytest.fixture
def decoded(tmp_path):
    """Three utterances of four words, decoded and scored as asr.sh does."""
    (tmp_path / "data" / "test").mkdir(parents=True)
    (tmp_path / "data" / "test" / "text").write_text(TEXT)
    folder = tmp_path / "asr_size3" / "decode_x" / "test"
    write(folder, hyp={"s-1": "A X", "s-2": "C", "s-3": ""})
    return folder


def write(folder, hyp, scored=3, words=4):
    (folder / "score_wer").mkdir(parents=True, exist_ok=True)
    (folder / "text").write_text("".join(f"{k} {v}\n" for k, v in hyp.items()))
    for side, texts in (("ref", dict(x.split(" ", 1) for x in TEXT.splitlines())),):
        write_trn(folder, side, texts)
    write_trn(folder, "hyp", hyp)
    text = RESULT.format(sentences=scored, words=words)
    (folder / "score_wer" / "result.txt").write_text(text)


def write_trn(folder, side, texts):
    lines = [f"{text}\t(s-{key})\n" for key, text in texts.items()]
    (folder / "score_wer" / f"{side}.trn").write_text("".join(lines))


def test_table_in_espnet_s_format(decoded, tmp_path):
    folders = {3: tmp_path / "asr_size3"}
    text = results("exp/asr_x", folders, ["test"], tmp_path / "data")
    assert (
        "## exp/asr_x\n### WER\n\n|dataset|Snt|Wrd|Corr|Sub|Del|Ins|Err|S.Err|" in text
    )
    row = "|size3/decode_x/test|3|4|50.0|25.0|25.0|0.0|50.0|66.7|\n"
    assert text.endswith(row)
    assert "### CER" not in text
    for name in ("date", "python", "espnet", "espnet_dynsize", "pytorch"):
        assert re.search(rf"- {name}.*: `.+`", text)


def test_a_test_set_that_is_not_decoded(decoded, tmp_path):
    (tmp_path / "data" / "other").mkdir()
    with pytest.raises(ConfigError, match="asr_size3 has no scores of other: run"):
        folders = {3: tmp_path / "asr_size3"}
        results("x", folders, ["test", "other"], tmp_path / "data")


def damage(decoded, what):
    whole = {"s-1": "A X", "s-2": "C", "s-3": ""}
    if what == "missing":
        write(decoded, {"s-1": "A", "s-3": "D"})
    elif what == "empty":
        write(decoded, dict.fromkeys(whole, ""))
    elif what == "order":
        write(decoded, {"s-2": "C", "s-1": "A X", "s-3": ""})
    elif what == "trn":
        write_trn(decoded, "hyp", {"s-1": "A X", "s-2": "C"})
    elif what == "other trn":
        write_trn(decoded, "hyp", {"s-1": "A X", "s-2": "C", "s-4": "D"})
    elif what == "sentences":
        write(decoded, whole, scored=2)
    elif what == "words":
        write(decoded, whole, words=0)
    elif what == "result":
        (decoded / "score_wer" / "result.txt").write_text("sclite: not found\n")
    elif what == "text":
        (decoded / "text").unlink()


@pytest.mark.parametrize(
    "what, message",
    [
        ("missing", r"1 of 3 utterances have no hypothesis, first s-2; decode again"),
        ("empty", r"every hypothesis is empty"),
        ("order", r"does not have the utterances of .* in the same order"),
        ("trn", r"hyp.trn has 2 utterances where .*text has 3, or others"),
        ("other trn", r"hyp.trn has 3 utterances where .*text has 3, or others"),
        (
            "sentences",
            r"counts 2 utterances and 4 words, but the reference has 3 and 4",
        ),
        ("words", r"counts 3 utterances and 0 words"),
        ("result", r"result.txt has no Sum/Avg line"),
        ("text", r"decode_x/test/text does not exist"),
    ],
)
def test_what_stock_scoring_lets_pass(decoded, tmp_path, what, message):
    check_decoded(decoded, tmp_path / "data" / "test")
    damage(decoded, what)
    with pytest.raises(ConfigError, match=message):
        check_decoded(decoded, tmp_path / "data" / "test")
