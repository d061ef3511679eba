"""Word and character error rates of a decoded test set, as sclite counts them.

The numbers are sclite's own where it has scored the files, or is installed. Elsewhere
they are jiwer's with the same rules: ASCII letters without case, insertions where the
reference is empty. sclite aligns with weights (4 for a substitution, 3 for an insertion
or deletion), so that in utterances with many errors it may count one more.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jiwer

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.report import sclite
from espnet_dynsize.report.trn import has_syntax, read_trn, without_case, words
from espnet_dynsize.report.trn import read_text as read_text  # for whoever scores

# jiwer's own rules would drop spaces of Unicode that sclite takes for letters.
_WORDS = jiwer.ReduceToListOfListOfWords()


class Score(NamedTuple):
    """Error rates as fractions."""

    wer: float
    cer: float


class UtteranceErrors(NamedTuple):
    """Of one utterance."""

    errors: int
    words: int  # of the reference


def read_errors(folder: Path) -> dict[str, UtteranceErrors]:
    """Errors in every utterance of the `ref.trn` and `hyp.trn` in a folder.

    Counted by jiwer, with one cost for every error, wherever sclite has been: sclite
    aligns with other costs, and counts hardly ever otherwise.

    Raises:
        ConfigError: a file is missing or cannot be used.
    """
    name = str(folder)
    ref, hyp = (
        _any_case(read_trn(folder / f"{side}.trn"), name) for side in ("ref", "hyp")
    )
    _check_plain(ref, hyp, f"{name} cannot be compared by utterance")
    aligned = jiwer.process_words(*_comparable(ref, hyp, name), _WORDS, _WORDS)
    return {
        key: UtteranceErrors(sum(map(_length, chunks)), len(reference))
        for key, chunks, reference in zip(
            sorted(ref), aligned.alignments, aligned.references
        )
    }


def _length(chunk: jiwer.AlignmentChunk) -> int:
    """How many errors a part of an alignment is."""
    if chunk.type == "equal":
        return 0
    reference = chunk.ref_end_idx - chunk.ref_start_idx
    return max(reference, chunk.hyp_end_idx - chunk.hyp_start_idx)


def error_rate(ref: Mapping[str, str], hyp: Mapping[str, str], name: str) -> float:
    """Edit distance in words over reference words, by utterance.

    Args:
        ref: Utterance → words.
        hyp: Utterance → words.
        name: Of the decoding, for messages.

    Raises:
        ConfigError: an utterance is missing on one side, there is no word, or sclite
            would not take every word as it is.
    """
    _check_plain(ref, hyp, f"{name} must be scored with sclite, which is not installed")
    return jiwer.process_words(*_comparable(ref, hyp, name), _WORDS, _WORDS).wer


def _comparable(
    ref: Mapping[str, str], hyp: Mapping[str, str], name: str
) -> tuple[list[str], list[str]]:
    """References and hypotheses in the order of the utterances' names, without case."""
    pairs = _paired(ref, hyp, name)
    references, hypotheses = (
        [" ".join(words(without_case(text))) for text in side] for side in zip(*pairs)
    )
    return references, hypotheses


def _check_plain(ref: Mapping[str, str], hyp: Mapping[str, str], what: str) -> None:
    """Refuse what jiwer would take for words, but sclite not.

    Args:
        ref: Utterance → words.
        hyp: Utterance → words.
        what: What cannot be done, for the message.
    """
    for text in (*ref.values(), *hyp.values()):
        if has_syntax(text):
            raise ConfigError(
                f"{what}: {text!r} has what sclite does not take for words ({{ }}, @, "
                f"word*, ;, \\)."
            )


def _paired(
    ref: Mapping[str, str], hyp: Mapping[str, str], name: str
) -> list[tuple[str, str]]:
    """Reference and hypothesis of every utterance: by name, never by position."""
    if ref.keys() != hyp.keys():
        ref, hyp = _any_case(ref, name), _any_case(hyp, name)
    missing = sorted(ref.keys() ^ hyp.keys())
    if missing:
        raise ConfigError(
            f"{name}: {len(missing)} utterances are not in both the reference "
            f"({len(ref)}) and the hypothesis ({len(hyp)}), first {missing[0]}."
        )
    if not any(words(text) for text in ref.values()):
        raise ConfigError(f"{name}: the reference has no words.")
    return [(ref[key], hyp[key]) for key in sorted(ref)]


def _any_case(texts: Mapping[str, str], name: str) -> dict[str, str]:
    lower: dict[str, str] = {}
    for key, text in texts.items():
        if without_case(key) in lower:
            raise ConfigError(
                f"{name}: utterance {key} is there twice; capital letters are no "
                "difference."
            )
        lower[without_case(key)] = text
    return lower


def read_score(folder: Path) -> Score:
    """Score what lies in `folder/score_wer` and `folder/score_cer`, as sclite does.

    Raises:
        ConfigError: a trn file is missing or cannot be used, or is not what sclite has
            scored.
    """
    return Score(*(_rate(folder / kind) for kind in ("score_wer", "score_cer")))


def _rate(folder: Path) -> float:
    ref, hyp = (read_trn(folder / f"{side}.trn") for side in ("ref", "hyp"))
    _paired(ref, hyp, str(folder))
    result = sclite.read_result(folder / sclite.RESULT)
    if result is not None:
        check_counts(folder, ref, hyp, result)
        return result.error_rate
    result = sclite.run(folder)
    return error_rate(ref, hyp, str(folder)) if result is None else result.error_rate


def check_counts(
    folder: Path,
    ref: Mapping[str, str],
    hyp: Mapping[str, str],
    result: sclite.Result,
) -> None:
    """Refuse a result that is not of these texts.

    Args:
        folder: Where both lie, for messages.
        ref: Utterance → words.
        hyp: Utterance → words.
        result: What sclite says.

    Raises:
        ConfigError: it has counted other utterances or words.
    """
    path = folder / sclite.RESULT
    # Alternatives and the like are not counted as they stand there.
    plain = not any(map(has_syntax, (*ref.values(), *hyp.values())))
    expected = (len(ref), _count(ref) if plain else result.words)
    if (result.sentences, result.words) != expected:
        raise ConfigError(
            f"{path} counts {result.sentences} utterances and {result.words} words, "
            f"but the reference has {expected[0]} and {expected[1]}; score again "
            "(stage 13)."
        )
    if plain and result.hypothesis_words not in (None, _count(hyp)):
        raise ConfigError(
            f"{path} counts {result.hypothesis_words} words in the hypothesis, but "
            f"hyp.trn has {_count(hyp)}; score again (stage 13)."
        )


def _count(texts: Mapping[str, str]) -> int:
    return sum(len(words(text)) for text in texts.values())


def write_score(folder: Path, ref: dict[str, str], hyp: dict[str, str]) -> None:
    """Write words and characters in the files that asr.sh leaves for sclite."""
    spell = {"score_wer": str.split, "score_cer": _characters}
    for kind, tokens in spell.items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for side, texts in (("ref", ref), ("hyp", hyp)):
            lines = [f"{' '.join(tokens(t))} ({i})\n" for i, t in sorted(texts.items())]
            (folder / kind / f"{side}.trn").write_text("".join(lines), encoding="utf-8")


def _characters(text: str) -> list[str]:
    return ["<space>" if c == " " else c for c in text]
