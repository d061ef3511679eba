import pytest

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.report.decodings import Name, find_decodings, labels, split_name
from espnet_dynsize.report.scores import write_score

MODEL = "valid.acc.ave.pth"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / MODEL).write_bytes(b"")
    return tmp_path


def decode(folder, inference, hypothesis="YES", name="test"):
    write_score(folder / inference / name, {"s-1": "YES"}, {"s-1": hypothesis})


def found(folder, model_file=MODEL):
    decodings, others = find_decodings(folder, model_file)
    wer = {name: decoding.score.wer for name, decoding in decodings.items()}
    return wer, [str(other.relative_to(folder)) for other in others]


def test_every_decoding_counts(folder):
    decode(folder, "decode_a")
    decode(folder, "decode_b", "NO")
    decode(folder, "decode_b", name="org/dev")
    assert found(folder) == (
        {
            Name("decode_a", "test"): 0.0,
            Name("decode_b", "test"): 1.0,
            Name("decode_b", "org/dev"): 0.0,
        },
        [],
    )


@pytest.mark.parametrize(
    "inference, decoding, stem",
    [
        ("decode_asr_asr_model_valid.acc.ave", "decode_asr", "valid.acc.ave"),
        ("inference_asr_model_12epoch", "inference", "12epoch"),
        (
            "decode_lm_lm_x_valid.loss.ave_asr_model_valid.acc.best",
            "decode_lm_lm_x_valid.loss.ave",
            "valid.acc.best",
        ),
        ("d_asr_model_valid.acc.ave_use_k2_x", "d_use_k2_x", "valid.acc.ave"),
        ("decode_valid.acc.ave", "decode", "valid.acc.ave"),
        ("decode_beam4_valid.acc.ave", "decode_beam4", "valid.acc.ave"),
        ("decode_valid.cer_ctc.ave_5best", "decode", "valid.cer_ctc.ave_5best"),
        ("decode_asr_beam4", "decode_asr_beam4", ""),
        # a language model's, of the user's own tag
        ("tag_lm_valid.loss.ave", "tag_lm_valid.loss.ave", ""),
    ],
)
def test_the_checkpoint_in_the_name(inference, decoding, stem):
    assert split_name(inference, ["valid.acc.ave", "ave"]) == (decoding, stem)


def test_decodings_with_another_checkpoint_are_not_of_this_model(folder):
    decode(folder, "decode_asr_model_valid.acc.ave")
    decode(folder, "decode_asr_model_valid.loss.best", "NO")
    decode(folder, "decode_valid.loss.ave", "NO")
    assert found(folder) == (
        {Name("decode", "test"): 0.0},
        ["decode_asr_model_valid.loss.best/test", "decode_valid.loss.ave/test"],
    )
    (folder / "valid.loss.ave.pth").write_bytes(b"")
    wer, others = found(folder, "valid.loss.ave.pth")
    assert wer == {Name("decode", "test"): 1.0} and len(others) == 2


def test_the_other_name_of_the_same_average(folder):
    (folder / "valid.acc.ave_10best.pth").symlink_to(MODEL)
    decode(folder, "decode_asr_model_valid.acc.ave")
    wer = {Name("decode", "test"): 0.0}
    assert found(folder, "valid.acc.ave_10best.pth") == (wer, [])


def test_two_decodings_never_share_a_name(folder):
    decode(folder, "decode")
    decode(folder, "decode_valid.acc.ave", "NO")
    assert found(folder)[0] == {
        Name("decode", "test"): 0.0,
        Name("decode_valid.acc.ave", "test"): 1.0,
    }


def test_columns_are_named_where_there_is_a_choice():
    names = [Name("decode_b", "test"), Name("decode_a", "test"), Name("x", "dev")]
    assert list(labels(names).items()) == [
        (Name("x", "dev"), "dev"),
        (Name("decode_a", "test"), "decode_a/test"),
        (Name("decode_b", "test"), "decode_b/test"),
    ]
    assert labels(2 * [Name("decode_b", "test")]) == {Name("decode_b", "test"): "test"}


def test_empty_hypotheses_are_noticed(folder):
    decode(folder, "decode_a", "")
    decode(folder, "decode_b")
    decodings, _ = find_decodings(folder, MODEL)
    assert [d.all_empty for d in decodings.values()] == [True, False]
    assert [d.score for d in decodings.values()] == [(1, 1), (0, 0)]


@pytest.mark.parametrize("kind", ["score_wer", "score_cer"])
@pytest.mark.parametrize("side", ["ref", "hyp"])
def test_half_of_what_scoring_leaves(folder, kind, side):
    decode(folder, "decode_a")
    path = folder / "decode_a" / "test" / kind / f"{side}.trn"
    path.unlink()
    with pytest.raises(ConfigError, match=f"{path} does not exist"):
        find_decodings(folder, MODEL)
