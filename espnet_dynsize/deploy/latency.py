"""How long after they were spoken a streaming recogniser's words are there."""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torchaudio

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy.recogniser import checked_audio
from espnet_dynsize.deploy.stream import Stream
from espnet_dynsize.runtime import LONGEST


class Heard(NamedTuple):
    """What was heard when so much audio had come.

    Args:
        seconds: Of audio.
        text: All of the utterance by then.
    """

    seconds: float
    text: str


class Latency(NamedTuple):
    """Of one utterance.

    Args:
        median: Of the time that a chunk takes, as a part of its duration. Most chunks
            complete no block of the encoder's.
        percentile: The 95th of these.
        total: All time, that of the end included, as a part of the audio's.
        words: Median of the seconds of audio from a word's end to its appearance; None
            where it is not known.
    """

    median: float
    percentile: float
    total: float
    words: float | None


def listen(
    recogniser: Stream,
    chunks: Iterable[np.ndarray],
    show: Callable[[Heard], None] = lambda heard: None,
) -> tuple[str, Latency]:
    """Recognise an utterance as it comes.

    Args:
        recogniser: Begins a new utterance.
        chunks: Samples [n], of the same length but for the last ones.
        show: Is called whenever there is another text.

    Returns:
        The text, and how late it was.

    Raises:
        ConfigError: there are no samples.
    """
    recogniser.reset()
    known: list[tuple[str, float]] = []
    times, audio = [], []
    text, samples, first = "", 0, 0
    for chunk in chunks:
        begin = time.perf_counter()
        now = recogniser.accept(chunk)
        times.append(time.perf_counter() - begin)
        first, samples = first or len(chunk), samples + len(chunk)
        if samples <= LONGEST * recogniser.rate:
            audio.append(checked_audio(chunk).float().cpu().numpy())
        if now != text:
            text = now
            note(known, text, samples / recogniser.rate)
            show(Heard(samples / recogniser.rate, text))
    if not samples:
        raise ConfigError("has no samples.")
    begin = time.perf_counter()
    text = recogniser.finish()
    total = sum(times) + time.perf_counter() - begin
    note(known, text, samples / recogniser.rate)
    ends = None
    if samples <= LONGEST * recogniser.rate:
        ends = word_ends(recogniser, np.concatenate(audio), recogniser.tokens)
    late = [shown - end for (_, shown), end in zip(known, ends or ())]
    parts = np.array(times) * recogniser.rate / first
    return text, Latency(
        float(np.median(parts)),
        float(np.quantile(parts, 0.95)),
        total * recogniser.rate / samples,
        statistics.median(late) if late else None,
    )


def note(known: list[tuple[str, float]], text: str, seconds: float) -> None:
    """Note since when each word of a text has been in its place.

    Args:
        known: Word and seconds of the text before; is changed.
        text: What is heard now.
        seconds: Of audio by now.
    """
    words = text.split()
    del known[len(words) :]
    for place, word in enumerate(words):
        if place == len(known):
            known.append((word, seconds))
        elif known[place][0] != word:
            known[place] = word, seconds


def word_ends(
    recogniser: Stream, samples: np.ndarray, tokens: Sequence[str]
) -> list[float] | None:
    """Seconds at which each word ends, by forced alignment with CTC.

    Args:
        recogniser: Its model encodes the whole utterance.
        samples: The utterance, [N].
        tokens: Of what it says.

    Returns:
        None where there is no CTC, or the audio cannot say the tokens.
    """
    log_probs = recogniser.log_probs(samples) if tokens else None
    if log_probs is None:
        return None
    ids = recogniser.converter.tokens2ids(tokens)
    blank = recogniser.blank
    repeated = sum(a == b for a, b in zip(ids, ids[1:]))
    if log_probs.size(1) < len(ids) + repeated:
        return None
    path, _ = torchaudio.functional.forced_align(
        log_probs, torch.tensor([ids]), blank=blank
    )
    frames = _last_frames(path[0].tolist(), blank)
    last = _last_tokens(tokens, recogniser.join)
    return [(frames[token] + 1) * recogniser.frame_seconds for token in last]


def _last_tokens(
    tokens: Sequence[str], join: Callable[[Sequence[str]], str]
) -> list[int]:
    """The position of the token with which each word is whole."""
    words, found = join(tokens).split(), []
    for position in range(len(tokens)):
        known, count = join(tokens[: position + 1]).split(), len(found) + 1
        if count <= len(words) and known[:count] == words[:count]:
            found.append(position)
    return found


def _last_frames(path: Sequence[int], blank: int) -> list[int]:
    """The last frame of each token on a CTC path."""
    found, before = [], blank
    for frame, token in enumerate(path):
        if token != blank:
            if token == before:
                found[-1] = frame
            else:
                found.append(frame)
        before = token
    return found
