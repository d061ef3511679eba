import pytest

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.report.trn import (
    has_syntax,
    read_text,
    read_trn,
    without_case,
    words,
)


def test_only_ascii_white_space_divides_words():
    assert words(" a\tb \u00a0c\u3000d\x0be\x0cf\rg\x1ch\x85 ") == [
        *("a", "b", "\u00a0c\u3000d", "e", "f", "g\x1ch\x85")
    ]


def test_only_ascii_letters_have_no_case():
    assert without_case("ABCz ÉÄß İ") == "abcz ÉÄß İ"


@pytest.mark.parametrize(
    "text", ["a { b / c } d", "x@ @ y", "foo;bar", "a\\b", "foo*", ";; note", "** note"]
)
def test_what_sclite_does_not_take_as_it_is(text):
    assert has_syntax(text)


@pytest.mark.parametrize(
    "text", ["(a) a(b)", "<NOISE> [laugh]", "%hm", "a@b.c", "-a a-", "} / *", "it's"]
)
def test_what_is_a_word(text):
    assert not has_syntax(text)


def test_trn_with_odd_white_space(tmp_path):
    path = tmp_path / "hyp.trn"
    path.write_bytes(
        "a  b\tc\t(S-1)\r\n\n   \t\n (s-2)  \nx(y) (z) ( (s-3)\n"
        "\u3000\u2028d\x0be (s-4)".encode()
    )
    assert read_trn(path) == {
        **{"S-1": "a b c", "s-2": "", "s-3": "x(y) (z) (", "s-4": "\u3000\u2028d e"}
    }


@pytest.mark.parametrize(
    "line",
    [
        "hello world",
        "hello (s-2) world",
        "hello ()",
        "hello ( )",
        ") hello (",
        "a (b))",
    ],
)
def test_a_line_without_its_utterance(tmp_path, line):
    path = tmp_path / "ref.trn"
    path.write_text(f"fine (s-1)\n{line}\n")
    with pytest.raises(ConfigError) as error:
        read_trn(path)
    assert str(error.value) == (
        f"{path}: line 2 must end with its utterance in parentheses, but is {line!r}."
    )


def test_an_utterance_twice(tmp_path):
    (tmp_path / "hyp.trn").write_text("a (s-1)\nb (s-2)\na (s-1)\n")
    (tmp_path / "text").write_text("s-1 a\ns-1 a\n")
    message = r"hyp.trn: line 3 has utterance s-1 again; every utterance must be there"
    with pytest.raises(ConfigError, match=message):
        read_trn(tmp_path / "hyp.trn")
    with pytest.raises(ConfigError, match="text: line 2 has utterance s-1 again"):
        read_text(tmp_path / "text")


@pytest.mark.parametrize("read", [read_text, read_trn])
def test_what_is_no_text(tmp_path, read):
    with pytest.raises(ConfigError, match="none does not exist"):
        read(tmp_path / "none")
    with pytest.raises(ConfigError, match="is not a file"):
        read(tmp_path)
    path = tmp_path / "latin1"
    path.write_bytes(b"s-1 a (s-1)\ncaf\xe9 (s-2)\n")
    with pytest.raises(ConfigError, match="latin1: line 2 must be UTF-8 text"):
        read(path)
    path.write_bytes(b"")
    assert read(path) == {}


def test_text_with_odd_white_space(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("a\tX  Y \r\nb\n\n  c \u3000Z\n".encode())
    assert read_text(path) == {"a": "X  Y", "b": "", "c": "\u3000Z"}
