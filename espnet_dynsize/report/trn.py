"""Reading Kaldi's `text` and sclite's trn files, as sclite does.

sclite works on bytes: only ASCII white space divides words, and only ASCII letters have
no case. What Python's own functions take for white space, or for the end of a line,
may be part of a word.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from espnet_dynsize.core.errors import ConfigError

_SPACE = " \t\n\r\v\f"
# Alternatives { a / b }, no word @, tags word;tag, escapes, words with * after them,
# and comments. All else, (word), <NOISE> and %hesitation too, is a word as it is.
_SYNTAX = re.compile(r"[;\\{\0]|^@$|^\*\*|.\*$")
_SHOWN = 60  # characters of a line in a message


def words(text: str) -> list[str]:
    """What sclite takes for words."""
    return [word.decode() for word in text.encode().split()]


def without_case(text: str) -> str:
    """Lower case, where sclite makes no difference."""
    return text.encode().lower().decode()


def has_syntax(text: str) -> bool:
    """Whether sclite does not count every word of it as it is."""
    return any(_SYNTAX.search(word) for word in words(text))


def read_text(path: Path) -> dict[str, str]:
    """Read a Kaldi-style `text`: utterance → words.

    Raises:
        ConfigError: it is not there, not text, or has an utterance twice.
    """
    texts: dict[str, str] = {}
    for number, line in _lines(path):
        utterance = words(line)[0]
        _check_new(utterance, texts, path, number)
        texts[utterance] = line.strip(_SPACE).removeprefix(utterance).strip(_SPACE)
    return texts


def read_trn(path: Path) -> dict[str, str]:
    """Read `words (utterance)` lines into utterance → words, with one space between.

    Raises:
        ConfigError: it is not there, not text, or has a line without an utterance, or
            one utterance twice.
    """
    texts: dict[str, str] = {}
    for number, line in _lines(path):
        # Parentheses further left belong to words.
        left, right = line.rfind("("), line.rfind(")")
        utterance = line[left + 1 : right]
        after = line[right + 1 :].strip(_SPACE)
        if not 0 <= left < right or not words(utterance) or ")" in utterance or after:
            raise ConfigError(
                f"{path}: line {number} must end with its utterance in parentheses, "
                f"but is {line.strip(_SPACE)[:_SHOWN]!r}."
            )
        _check_new(utterance, texts, path, number)
        texts[utterance] = " ".join(words(line[:left]))
    return texts


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number, from 1, and text of the lines that are not empty."""
    if not path.is_file():
        raise ConfigError(
            f"{path} {'is not a file' if path.exists() else 'does not exist'}."
        )
    try:
        content = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: line {line} must be UTF-8 text.") from error
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip(_SPACE):
            yield number, line


def _check_new(utterance: str, texts: dict[str, str], path: Path, number: int) -> None:
    if utterance in texts:
        raise ConfigError(
            f"{path}: line {number} has utterance {utterance} again; every utterance "
            "must be there once."
        )
