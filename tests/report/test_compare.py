"""The paired bootstrap, and `report --compare`."""

import shutil

import numpy as np
import pytest
from experiment import experiment

from espnet_dynsize.bin.main import main
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.report.compare import compare, paired_bootstrap
from espnet_dynsize.report.scores import UtteranceErrors, read_errors, write_score


def test_two_utterances_have_three_draws():
    """Sums of 0, 1 and 2 with probabilities 1/4, 1/2 and 1/4, over two words."""
    first, second, words = (np.array(n) for n in ([0, 1], [1, 1], [1, 1]))
    result = paired_bootstrap(first, second, words)
    assert result[:4] == (2, 2, 0.5, 1.0)
    assert (result.low, result.high) == (0.0, 1.0)
    assert result.p_value == pytest.approx(2 / 4, abs=0.02)


def test_words_weigh_utterances():
    """One word wrong in one of three: 1/3, 1/4 or 1/5 where it is drawn once."""
    first, second, words = (np.array(n) for n in ([0, 0], [1, 0], [1, 3]))
    result = paired_bootstrap(first, second, words)
    assert (result.first, result.second) == (0.0, 0.25)
    # Drawn twice: 2/2
    assert (result.low, result.high) == (0.0, 1.0)


def test_systems_that_do_not_differ():
    errors, words = np.array([0, 2, 1]), np.array([3, 3, 3])
    result = paired_bootstrap(errors, errors, words)
    assert (result.low, result.high, result.p_value) == (0.0, 0.0, 1.0)


def test_sides_are_alike():
    dice = np.random.default_rng(1)
    first, second = dice.integers(4, size=(2, 50))
    words = dice.integers(1, 9, size=50)
    one, other = (
        paired_bootstrap(*pair, words) for pair in ((first, second), (second, first))
    )
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert one.p_value == other.p_value


def test_a_difference_in_every_utterance():
    zeros, words = np.zeros(20, int), np.full(20, 4)
    result = paired_bootstrap(zeros, zeros + 1, words, draws=999)
    assert (result.low, result.high, result.p_value) == (0.25, 0.25, 0.002)


REF = {"U1": "a b c", "u2": "", "u3": "a"}
HYP = {"u1": "A x", "U2": "b", "u3": "a"}


def test_errors_of_every_utterance(tmp_path):
    write_score(tmp_path, REF, HYP)
    assert read_errors(tmp_path / "score_wer") == {
        "u1": UtteranceErrors(2, 3),  # one other word, one missing
        "u2": UtteranceErrors(1, 0),
        "u3": UtteranceErrors(0, 1),
    }


def decoded(folder, hyp, ref=REF):
    write_score(folder, ref, hyp)
    return folder


def test_decoded_test_sets(tmp_path, capsys):
    one, other = decoded(tmp_path / "one", HYP), decoded(tmp_path / "two", REF)
    assert main(["report", "--compare", str(one), str(other)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and not list(tmp_path.glob("report*"))
    assert lines[2].startswith(
        f"| one | WER | {one} | 3 | 4 | 75.0 | {other} | 0.0 | -75"
    )


@pytest.mark.parametrize("option", ["--output_dir", "--audio"])
def test_comparing_writes_and_times_nothing(tmp_path, capsys, option):
    folders = [str(decoded(tmp_path / name, HYP)) for name in ("one", "two")]
    assert main(["report", "--compare", *folders, option, "x"]) == 2
    assert f"{option}=" in capsys.readouterr().err


def test_models_with_decodings_in_common(tmp_path, capsys):
    folders = []
    for name, hyp in (("a", HYP), ("b", REF)):
        folder, _ = experiment(tmp_path / name)
        decoded(folder / "decode_x_asr_model_valid.cer_ctc.ave" / "test", hyp)
        decoded(folder / f"only_{name}_asr_model_valid.cer_ctc.ave" / "test", hyp)
        folders.append(folder)
    table = compare(folders)
    assert [line.split(" | ")[:2] for line in table.splitlines()[2:]] == [
        ["| test", "WER"],
        ["| test", "CER"],
    ]
    shutil.rmtree(folders[1] / "decode_x_asr_model_valid.cer_ctc.ave")
    assert main(["report", "--compare", *map(str, folders)]) == 2
    assert "have no test set in common" in capsys.readouterr().err


def test_what_neither_has_is_left_out(tmp_path):
    folders = [decoded(tmp_path / name, HYP) for name in "ab"]
    for folder in folders:
        shutil.rmtree(folder / "score_cer")
    assert len(compare(folders).splitlines()) == 3
    shutil.rmtree(folders[0] / "score_wer")
    with pytest.raises(ConfigError):
        compare(folders)


def test_no_p_value_of_few_utterances(tmp_path):
    for number, cell in ((29, "–"), (30, "0.0002")):
        ref = {f"u{i}": "a" for i in range(number)}
        one = decoded(tmp_path / f"one{number}", dict.fromkeys(ref, "b"), ref)
        other = decoded(tmp_path / f"two{number}", ref, ref)
        line = compare([one, other]).splitlines()[2]
        assert line.split(" | ")[-1] == f"{cell} |"


@pytest.mark.parametrize("word", ["a;b", "{", "x*"])
def test_words_that_sclite_does_not_take(tmp_path, word):
    folders = [decoded(tmp_path / name, {**HYP, "u3": word}) for name in "ab"]
    with pytest.raises(ConfigError, match="cannot be compared by utterance: "):
        compare(folders)


@pytest.mark.parametrize(
    "ref", [{**REF, "u3": "a a"}, {k: v for k, v in REF.items() if k != "u3"}]
)
def test_other_utterances_or_references(tmp_path, ref):
    one = decoded(tmp_path / "one", HYP)
    other = decoded(tmp_path / "two", ref, ref)
    with pytest.raises(ConfigError, match="1 differ, first u3"):
        compare([one, other])


def test_one_folder_is_not_enough(tmp_path):
    with pytest.raises(ConfigError, match="two folders or more"):
        compare([tmp_path])
