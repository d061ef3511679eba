import re

import pytest

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.report.results import check_decoded, read_sum, results

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
    write_trn(folder, "ref", dict(x.split(" ", 1) for x in TEXT.splitlines()))
    write_trn(folder, "hyp", hyp)
    text = RESULT.format(sentences=scored, words=words)
    (folder / "score_wer" / "result.txt").write_text(text)


def write_trn(folder, side, texts):
    lines = [f"{text}\t(s-{key})\n" for key, text in texts.items()]
    (folder / "score_wer" / f"{side}.trn").write_text("".join(lines))


def test_table_in_espnet_s_format(decoded, tmp_path):
    folders = {"size3": tmp_path / "asr_size3"}
    text = results("exp/asr_x", folders, ["test"], tmp_path / "data")
    assert (
        "## exp/asr_x\n### WER\n\n|dataset|Snt|Wrd|Corr|Sub|Del|Ins|Err|S.Err|" in text
    )
    row = "|size3/decode_x/test|3|4|50.0|25.0|25.0|0.0|50.0|66.7|\n"
    assert text.endswith(row)
    assert "### CER" not in text
    for name in ("date", "python", "espnet", "espnet_dynsize", "pytorch"):
        assert re.search(rf"- {name}.*: `.+`", text)


@pytest.mark.parametrize("bar", ["|", "        |", "\t|"])
def test_sclite_centres_its_table(tmp_path, bar):
    line = f"{bar} Sum/Avg|  3000   18033  | 65.2   18.0   16.8   18.7   53.6   91.0 |"
    (tmp_path / "result.txt").write_text(f"  |---|\n{line}\n")
    percentages = ["65.2", "18.0", "16.8", "18.7", "53.6", "91.0"]
    assert read_sum(tmp_path) == (3000, 18033, percentages)


def test_empty_hypotheses_end_in_a_table(decoded, tmp_path):
    write(decoded, dict.fromkeys(("s-1", "s-2", "s-3"), ""))
    warning = f"Warning: every hypothesis in {decoded} is empty; look at its logdir"
    (found,) = check_decoded(decoded, tmp_path / "data" / "test")
    assert found.startswith(warning)
    folders = {"size3": tmp_path / "asr_size3"}
    text = results("exp/asr_x", folders, ["test"], tmp_path / "data")
    assert f"## exp/asr_x\n\n{warning}" in text and "|size3/decode_x/test|3|4|" in text


def test_every_decoding_has_its_row(decoded, tmp_path):
    write(decoded.parents[1] / "decode_a" / "test", {"s-1": "", "s-2": "", "s-3": "D"})
    folders = {"size3": tmp_path / "asr_size3"}
    text = results("exp/asr_x", folders, ["test"], tmp_path / "data")
    rows = [line.split("|")[1] for line in text.splitlines() if "|size3" in line]
    assert rows == ["size3/decode_a/test", "size3/decode_x/test"]


def test_a_test_set_that_is_not_decoded(decoded, tmp_path):
    (tmp_path / "data" / "other").mkdir()
    with pytest.raises(ConfigError, match="asr_size3 has no scores of other: run"):
        folders = {"size3": tmp_path / "asr_size3"}
        results("x", folders, ["test", "other"], tmp_path / "data")


def damage(decoded, what):
    whole = {"s-1": "A X", "s-2": "C", "s-3": ""}
    if what == "missing":
        write(decoded, {"s-1": "A", "s-3": "D"})
    elif what == "twice":
        (decoded / "text").write_text("s-1 A X\ns-2 C\ns-3\ns-3 D\n")
    elif what == "trn twice":
        write_trn(decoded, "hyp", whole)
        with (decoded / "score_wer" / "hyp.trn").open("a") as file:
            file.write("D\t(s-s-3)\n")
    elif what == "trn without id":
        (decoded / "score_wer" / "hyp.trn").write_text("A X\nC\n\n")
    elif what == "not text":
        (decoded / "text").write_bytes(b"s-1 \xff\n")
    elif what == "no words":
        write_trn(decoded, "ref", dict.fromkeys(whole, ""))
    elif what == "hypothesis":
        write(decoded, {"s-1": "A", "s-2": "C", "s-3": ""})
        with (decoded / "score_wer" / "result.txt").open("a") as file:
            file.write("   |  Sum   |  3   4 |   2   1   1   0   2   2 |\n")
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
        ("twice", r"decode_x/test/text: line 4 has utterance s-3 again"),
        ("trn twice", r"hyp.trn: line 4 has utterance s-s-3 again"),
        ("trn without id", r"hyp.trn: line 1 must end with its utterance in"),
        ("not text", r"decode_x/test/text: line 1 must be UTF-8 text"),
        ("no words", r"ref.trn has no words: nothing can be scored"),
        ("hypothesis", r"counts 3 words in the hypothesis, but hyp.trn has 2"),
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
