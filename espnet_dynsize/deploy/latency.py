"""How long after they were spoken a streaming recogniser's words are there."""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torchaudio

from espnet_dynsize.deploy.recogniser import LONGEST
from espnet_dynsize.deploy.streaming import StreamingRecogniser


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
        median: Of the time that a chunk takes, as a part of its duration.
        percentile: The 95th of these.
        words: Median of the seconds of audio from a word's end to its appearance; None
            where it is not known.
    """

    median: float
    percentile: float
    words: float | None


def listen(
    recogniser: StreamingRecogniser,
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
    """
    history, audio, parts = [], [], []
    samples = 0
    for chunk in chunks:
        begin = time.perf_counter()
        text = recogniser.accept(chunk)
        seconds = time.perf_counter() - begin
        parts.append(seconds * recogniser.rate / len(chunk))
        audio.append(chunk)
        samples += len(chunk)
        if text != (history[-1].text if history else ""):
            history.append(Heard(samples / recogniser.rate, text))
            show(history[-1])
    text = recogniser.finish()
    history.append(Heard(samples / recogniser.rate, text))
    heard = np.concatenate(audio) if audio else np.empty(0, np.float32)
    ends = word_ends(recogniser, heard, recogniser.tokens)
    late = [shown - end for shown, end in zip(appearances(history), ends or ())]
    parts = parts or [0.0]
    words = statistics.median(late) if late else None
    return text, Latency(
        statistics.median(parts), float(np.quantile(parts, 0.95)), words
    )


def appearances(history: Sequence[Heard]) -> list[float]:
    """Seconds of audio after which each word of the last text is there for good.

    Args:
        history: Ends with the whole utterance.
    """
    times = []
    for place, word in enumerate(history[-1].text.split()):
        since = None
        for seconds, text in history:
            there = text.split()[place : place + 1] == [word]
            since = (seconds if since is None else since) if there else None
        times.append(since)
    return times


@torch.no_grad()
def word_ends(
    recogniser: StreamingRecogniser, samples: np.ndarray, tokens: Sequence[str]
) -> list[float] | None:
    """Seconds at which each word ends, by forced alignment with CTC.

    Args:
        recogniser: Its model encodes the whole utterance.
        samples: The utterance, [N].
        tokens: Of what it says.

    Returns:
        None where there is no CTC, or the audio cannot say the tokens, or is too long.
    """
    model, length = recogniser.asr_model, len(samples)
    if model.ctc is None or not tokens or length > LONGEST * recogniser.rate:
        return None
    ids = recogniser.converter.tokens2ids(tokens)
    speech = torch.from_numpy(samples)[None].to(next(model.parameters()))
    encoded, _ = model.encode(speech, torch.tensor([length], device=speech.device))
    log_probs = model.ctc.log_softmax(encoded).float().cpu()
    repeated = sum(a == b for a, b in zip(ids, ids[1:]))
    if log_probs.size(1) < len(ids) + repeated:
        return None
    path, _ = torchaudio.functional.forced_align(
        log_probs, torch.tensor([ids]), blank=model.blank_id
    )
    frames = _last_frames(path[0].tolist(), model.blank_id)
    last = _last_tokens(tokens, recogniser.tokenizer.tokens2text)
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
