"""Speech recognition with a model that `espnet-dynsize export` has written.

    python runtime.py model.onnx a.wav b.flac …

This file needs nothing but onnxruntime, numpy and soundfile, and can be copied to a
device alone: neither ESPnet nor PyTorch is there.
"""

import argparse
import base64
import json
import math
import os
import re
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

KEY = "espnet_dynsize"  # of the metadata
VERSION = 2
INPUTS = ["x", "lengths"]
# Kind → the parts that it has besides its encoder
PARTS_OF = {
    "ctc": (),
    "transducer": ("prediction", "joint"),
    "attention": ("memory", "step"),
}
# Part → its inputs and outputs, and how many dimensions they have
SHAPES = {
    "prediction": (dict(token=1, state=3), dict(said=2, next_state=3)),
    "joint": (dict(frames=2, said=2), dict(log_probabilities=2)),
    "memory": (dict(frames=2), dict(memory=4)),
    "step": (
        dict(token=1, cache=4, memory=4),
        dict(log_probabilities=2, next_cache=4),
    ),
}
PARTS = tuple(name for names in PARTS_OF.values() for name in names)
OF_PART = ("version", "model", "name", "sha256")  # what its metadata have in common
BLANK = 0
LARGEST_BEAM = 1000
MOST_TOKENS = 100  # with which a text is continued in a frame
AT_ONCE = 16  # frames that are joined with what has been said before them
MOST_THREADS = 256
LARGEST = 2**24  # values of an array in the metadata
LONGEST_PIECE = 30.0  # seconds: about the longest utterances that ASR is trained with
SHORTEST_REST = 1.0  # seconds that a cut leaves, at least
HOPS_PER_SECOND = 100  # how finely a silence is looked for
STRETCH = 20  # hops: longer than the closure of a plosive, shorter than a pause
LOUDEST = 2.0**31  # full scale is 1; the widest integers, not scaled, reach this
LEAST_POWER = 1e-10  # as in ESPnet's `LogMel`
KALDI_LEAST_POWER = float(np.finfo(np.float32).eps)
PREEMPHASIS = 0.97
LONGEST = 300  # seconds at once: attention needs memory by the square of the length


# What metadata of another's may raise
_UNREADABLE = (
    *(ValueError, TypeError, KeyError, OverflowError),
    *(RecursionError, zlib.error),
)


class InputError(ValueError):
    """Bad input; the message says what it is and what is allowed."""


class Model:
    """A recogniser of one file.

    Args:
        path: Written by `espnet-dynsize export`.
        threads: Of the computation.
        beam_size: Of CTC, how many texts are followed at once, by flashlight-text; 1
            takes the best token of every frame.

    Attributes:
        about: The file's metadata.
        rate: Samples a second of the audio that it takes.

    Raises:
        InputError: it cannot be opened, or is another one's.
    """

    def __init__(self, path: str | Path, threads: int = 1, beam_size: int = 1):
        if type(beam_size) is not int or not 1 <= beam_size <= LARGEST_BEAM:
            raise InputError(f"beam_size={beam_size} must be from 1 to {LARGEST_BEAM}.")
        self.path = Path(path)
        self._session = _open(self.path, threads)
        self.about = _about(self._session, self.path)
        self.rate = self.about["rate"]
        self._features = self._search = None
        if self.about["kind"] != "ctc":
            if beam_size > 1:
                raise InputError(f"beam_size={beam_size} must be 1: this is no CTC.")
            search = dict(transducer=Transducer, attention=Attention)
            self._search = search[self.about["kind"]](self.path, self.about, threads)
        elif beam_size > 1:
            self._search = Beam(beam_size, len(self.about["tokens"]))
        if self.about["input"] == "features":
            self._features = Features(self.about["features"])

    def __call__(self, samples: np.ndarray) -> str:
        """Text of samples [N] at `rate`, floats of full scale 1, heard at once.

        Raises:
            InputError: they are no audio, or too long.
        """
        return self.text(self.tokens(samples))

    def transcribe(self, samples: np.ndarray) -> str:
        """Text of samples [N] of any length: cut at silences, in pieces of 30 s.

        Raises:
            InputError: they are no audio.
        """
        texts = map(self, pieces([checked(samples)], self.rate))
        return " ".join(text for text in texts if text)

    def tokens(self, samples: np.ndarray) -> list[str]:
        """Tokens of samples [N].

        Raises:
            InputError: they are no audio, or too long.
        """
        found = self.run(self._heard(samples))
        if self._search is None:
            numbers = collapsed(found.argmax(axis=-1))
        else:
            numbers = self._search(found)
        return [self.about["tokens"][number] for number in numbers]

    def log_probabilities(
        self, samples: np.ndarray, said: Sequence[int] = ()
    ) -> np.ndarray:
        """[T, V] of samples [N]; [0, V] where these are too few.

        Args:
            samples: [N].
            said: Of a transducer: tokens before, without blanks. Of attention, too, and
                what is returned is of each of them and of the next one, [1 + U, V].

        Raises:
            InputError: they are no audio, or too long.
        """
        found = self.run(self._heard(samples))
        if self.about["kind"] == "ctc":
            return found
        number = len(self.about["tokens"])
        for token in said:
            if not 0 <= token < number:
                raise InputError(f"said={token} must be from 0 to {number - 1}.")
        if not len(found):
            return np.zeros((0, number), np.float32)
        return self._search.log_probabilities(found, said)

    def _heard(self, samples: np.ndarray) -> np.ndarray:
        """What the graph takes of samples [N]."""
        samples = checked(samples)
        seconds = len(samples) / self.rate
        if seconds > LONGEST:
            raise InputError(
                f"{seconds:.0f} s at once are too long: at most {LONGEST} s; "
                "`transcribe` cuts at silences."
            )
        return samples if self._features is None else self._features(samples)

    def too_short(self, samples: np.ndarray) -> bool:
        """Whether samples [N] have nothing that could be heard."""
        return len(self._heard(samples)) < self.about["least"]

    def run(self, x: np.ndarray) -> np.ndarray:
        """What the graph gives of what it takes: samples [N] or features [L, D].

        Returns:
            Log-probabilities [T, V]; of a transducer, frames [T, J] for its search.
        """
        if len(x) < self.about["least"]:
            size = self._session.get_outputs()[0].shape[-1]
            return np.zeros((0, size), np.float32)
        lengths = np.array([len(x)], np.int64)
        inputs = {"x": x[None].astype(np.float32), "lengths": lengths}
        found, (frames,) = _run(self._session, self.path, inputs, 2)
        if not 0 <= frames <= found.shape[1]:
            raise InputError(f"{self.path} gives {frames} of {found.shape[1]} frames.")
        # Some files have frames of padding behind these.
        return found[0, :frames]

    def text(self, tokens: Sequence[str]) -> str:
        """Text of tokens, as ESPnet's tokenizer joins them."""
        space = self.about["space"]
        if space is None:  # words
            return " ".join(tokens)
        if self.about["pieces"]:
            tokens = decoded(tokens)
        return "".join(tokens).replace(space, " ").strip()


class Beam:
    """CTC's search for the text that is most probable over all its alignments.

    flashlight-text's (Kahn et al., ICML 2022; without lexicon and language model).

    Args:
        size: Texts that are followed at once.
        tokens: How many there are.

    Raises:
        InputError: flashlight-text is not installed.
    """

    def __init__(self, size: int, tokens: int):
        try:
            from flashlight.lib.text import decoder
        except ImportError as error:
            raise InputError(
                f"beam_size={size} needs flashlight-text: pip install flashlight-text."
            ) from error
        options = decoder.LexiconFreeDecoderOptions(
            beam_size=size,
            beam_size_token=min(tokens, MOST_TOKENS),
            beam_threshold=50,  # about what double precision can tell apart
            lm_weight=0,
            sil_score=0,
            log_add=True,
            criterion_type=decoder.CriterionType.CTC,
        )
        none = -1  # token of silence
        self._decoder = decoder.LexiconFreeDecoder(
            options, decoder.ZeroLM(), none, BLANK, []
        )

    def __call__(self, log_probabilities: np.ndarray) -> list[int]:
        """Tokens of [T, V]."""
        if not len(log_probabilities):
            return []
        scores = np.ascontiguousarray(log_probabilities, np.float32)
        best, *_ = self._decoder.decode(scores.ctypes.data, *scores.shape)
        path = np.array(best.tokens)
        return collapsed(path[path >= 0])  # without its two ends


class Parts:
    """What a model has besides its encoder.

    Args:
        path: The file of its encoder, beside which its parts are.
        about: That file's metadata.
        threads: Of the computation.

    Raises:
        InputError: a part is missing, or another model's.
    """

    def __init__(self, path: Path, about: dict, threads: int):
        names = PARTS_OF[about["kind"]]
        self._paths = {name: part_path(path, name) for name in names}
        self._sessions = {
            name: _open_part(part, name, about, threads)
            for name, part in self._paths.items()
        }

    def run(self, name: str, **inputs: np.ndarray) -> list[np.ndarray]:
        """What a part gives."""
        session, (_, outputs) = self._sessions[name], SHAPES[name]
        return _run(session, self._paths[name], inputs, len(outputs))

    def shape(self, name: str, which: str) -> list:
        """Of a part's input."""
        (found,) = (i for i in self._sessions[name].get_inputs() if i.name == which)
        return found.shape


class Transducer:
    """The greedy search of a transducer: at most one token a frame, as in ESPnet.

    Args:
        path: See `Parts`.
        about: See `Parts`.
        threads: See `Parts`.

    Raises:
        InputError: see `Parts`.
    """

    def __init__(self, path: Path, about: dict, threads: int):
        self._parts = Parts(path, about, threads)
        shape = self._parts.shape("prediction", "state")  # [L, 1, S]
        self._state = np.zeros(shape, np.float32)

    def __call__(self, frames: np.ndarray) -> list[int]:
        """Tokens of frames [T, J]."""
        tokens: list[int] = []
        said, state = self._predict(BLANK, self._state)
        at = 0
        while at < len(frames):
            # Up to the next token, what has been said is the same for all frames.
            found = self._join(frames[at : at + AT_ONCE], said).argmax(axis=-1)
            spoken = np.flatnonzero(found != BLANK)
            if not len(spoken):
                at += AT_ONCE
                continue
            tokens.append(int(found[spoken[0]]))
            said, state = self._predict(tokens[-1], state)
            at += int(spoken[0]) + 1
        return tokens

    def log_probabilities(
        self, frames: np.ndarray, tokens: Sequence[int]
    ) -> np.ndarray:
        """[T, V] of frames [T, J], each after all of these tokens."""
        said, state = self._predict(BLANK, self._state)
        for token in tokens:
            said, state = self._predict(token, state)
        return self._join(frames, said)

    def _predict(self, token: int, state: np.ndarray) -> list[np.ndarray]:
        number = np.array([token], np.int64)
        return self._parts.run("prediction", token=number, state=state)

    def _join(self, frames: np.ndarray, said: np.ndarray) -> np.ndarray:
        return self._parts.run("joint", frames=frames, said=said)[0]


class Attention:
    """The greedy search of an attention decoder: at most as many tokens as frames.

    That of ESPnet's `beam_size: 1`, `ctc_weight: 0`.

    Args:
        path: See `Parts`.
        about: See `Parts`; the last token is <sos/eos>.
        threads: See `Parts`.

    Raises:
        InputError: see `Parts`.
    """

    def __init__(self, path: Path, about: dict, threads: int):
        self._parts = Parts(path, about, threads)
        layers, heads, _, size = self._parts.shape("step", "cache")
        self._cache = np.zeros((layers, heads, 0, size), np.float32)
        self._end = len(about["tokens"]) - 1

    def __call__(self, frames: np.ndarray) -> list[int]:
        """Tokens of frames [T, D]."""
        tokens: list[int] = []
        if not len(frames):
            return tokens
        (memory,) = self._parts.run("memory", frames=frames)
        cache, token = self._cache, self._end
        while len(tokens) < len(frames):
            found, cache = self._step(token, cache, memory)
            token = int(found.argmax())
            if token == self._end:
                break
            tokens.append(token)
        # ESPnet does not show blanks, either.
        return [token for token in tokens if token != BLANK]

    def log_probabilities(
        self, frames: np.ndarray, tokens: Sequence[int]
    ) -> np.ndarray:
        """[1 + U, V] of each of U tokens, and of the one after them."""
        (memory,) = self._parts.run("memory", frames=frames)
        cache, found = self._cache, []
        for token in [self._end, *tokens]:
            one, cache = self._step(token, cache, memory)
            found.append(one[0])
        return np.stack(found)

    def _step(self, token: int, cache: np.ndarray, memory: np.ndarray):
        number = np.array([token], np.int64)
        return self._parts.run("step", token=number, cache=cache, memory=memory)


def part_path(path: Path, name: str) -> Path:
    """Where a part of a model is: beside its encoder."""
    return path.with_name(f"{path.stem}_{name}{path.suffix}")


def files_of(path: Path, about: dict) -> list[Path]:
    """The files of a model with these metadata: its encoder, and its parts."""
    return [path, *(part_path(path, name) for name in PARTS_OF[about["kind"]])]


def _open_part(path: Path, name: str, about: dict, threads: int):
    session = _open(path, threads)
    told = _told(session, path)
    wanted = dict(kind=name) | {key: about.get(key) for key in OF_PART}
    if any(told.get(key) != value for key, value in wanted.items()):
        raise InputError(f"{path} is not of the same model as the files beside it.")
    inputs, outputs = SHAPES[name]
    found = {i.name: i.shape for i in session.get_inputs()}
    good = {key: len(shape) for key, shape in found.items()} == inputs
    good &= [len(o.shape) for o in session.get_outputs()] == list(outputs.values())
    for key in ("state", "cache"):  # from which a search begins
        sizes = found.get(key, [])[:2] + found.get(key, [])[-1:]
        good &= all(type(size) is int and 0 < size < LARGEST for size in sizes)
        good &= math.prod(s for s in sizes if type(s) is int) <= LARGEST
    if name in ("joint", "step"):
        good = good and session.get_outputs()[0].shape[-1] == len(about["tokens"])
    if not good:
        raise InputError(f"{path} is not the part that its metadata tell of.")
    return session


def _run(session, path: Path, inputs: dict, outputs: int) -> list[np.ndarray]:
    try:
        found = session.run(None, inputs)
    except Exception as error:  # it has many kinds, of no common class
        raise InputError(f"{path} fails: {_one_line(error)}") from error
    if len(found) != outputs or any(np.isnan(part).any() for part in found):
        raise InputError(f"{path} gives no numbers.")
    return found


def decoded(pieces: Sequence[str]) -> list[str]:
    """Pieces as sentencepiece shows them: unknown ones, and bytes such as <0xE4>."""
    found: list[str] = []
    kept = bytearray()
    for piece in [*pieces, ""]:
        if re.fullmatch("<0x[0-9A-F]{2}>", piece):
            kept.append(int(piece[3:5], 16))
            continue
        found.append(kept.decode(errors="replace"))
        kept.clear()
        found.append(" ⁇ " if piece == "<unk>" else piece)
    return found


def _open(path: Path, threads: int):
    import onnxruntime

    if type(threads) is not int or not 1 <= threads <= MOST_THREADS:
        raise InputError(f"threads={threads} must be from 1 to {MOST_THREADS}.")
    if not is_file(path):
        raise InputError(f"{path} is no file.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # it has many kinds, of no common class
        raise InputError(f"{path} cannot be opened: {_one_line(error)}") from error


def read_metadata(path: Path) -> dict:
    """The metadata of a file that `espnet-dynsize export` has written.

    Raises:
        InputError: it cannot be opened, or was written by another program.
    """
    return _told(_open(path, 1), path)


def _told(session, path: Path) -> dict:
    found = session.get_modelmeta().custom_metadata_map.get(KEY)
    if found is None:
        raise InputError(f"{path} was not written by `espnet-dynsize export`.")
    try:
        about = json.loads(found)
    except _UNREADABLE as error:
        raise InputError(f"{path} has metadata that cannot be read.") from error
    if not isinstance(about, dict):
        raise InputError(f"{path} has metadata that cannot be read.")
    return about


def _about(session, path: Path) -> dict:
    about = _told(session, path)
    if about.get("kind") in PARTS:
        raise InputError(f"{path} is a part of a model: give the encoder's file.")
    try:
        version = about["version"]
        good = version != VERSION or _is_whole(about)
    except _UNREADABLE as error:
        raise InputError(f"{path} has metadata that cannot be read.") from error
    if version != VERSION:
        raise InputError(
            f"{path} has version {version!a:.9} of the metadata, this program "
            f"{VERSION}: "
            "export it anew, or take another version of the program."
        )
    names = [i.name for i in session.get_inputs()]
    good = good and names == INPUTS and _fits(session, about)
    if not good:
        raise InputError(f"{path} is not the model that its metadata tell of.")
    return about


def _fits(session, about: dict) -> bool:
    """Whether a graph has the inputs and outputs that its metadata tell of."""
    x, lengths = (i.shape for i in session.get_inputs())
    outputs = [o.shape for o in session.get_outputs()]
    if [len(shape) for shape in (lengths, *outputs)] != [1, 3, 1]:
        return False
    mels = about["features"]["mel"]["shape"][1:]
    inputs = len(x) == 2 if about["input"] == "samples" else x[2:] == mels
    tokens = about["kind"] != "ctc" or outputs[0][-1] == len(about["tokens"])
    return inputs and tokens


def _is_whole(about: dict) -> bool:
    """Whether metadata of this version are as `export` writes them."""
    whole = about["input"] in ("samples", "features")
    whole &= about["kind"] in PARTS_OF
    whole &= type(about["tokens"]) is list and len(about["tokens"]) > 1
    whole &= all(isinstance(token, str) for token in about["tokens"])
    for key in ("rate", "least"):
        whole &= type(about[key]) is int and 0 < about[key] < LARGEST
    whole &= about["space"] is None or isinstance(about["space"], str)
    whole &= type(about["pieces"]) is bool
    return whole and Features(about["features"]).is_whole


class Features:
    """Log-mel features in numpy.

    Args:
        conf: What a model's metadata say of them. `kind`: of ESPnet's
            `DefaultFrontend`, "centered" at every hop, or "whole" frames alone;
            "kaldi": of this plugin's `KaldiFrontend`.
    """

    def __init__(self, conf: dict):
        self.kind, self.hop = conf["kind"], conf["hop"]
        self.window = unpacked(conf["window"])
        self.mel = unpacked(conf["mel"])

    @property
    def is_whole(self) -> bool:
        """Whether these are features."""
        if not (self.window.ndim == 1 and self.mel.ndim == 2):
            return False
        hops = type(self.hop) is int and 0 < self.hop < LARGEST
        hops &= bool(np.isfinite(self.window).all() and np.isfinite(self.mel).all())
        n_fft = 2 * (len(self.mel) - 1)
        if self.kind == "kaldi":
            return hops and self.hop <= len(self.window) <= n_fft
        return (
            hops
            and self.kind in ("centered", "whole")
            and len(self.window) // 2 + 1 == len(self.mel)
        )

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """[L, D] of samples [N]; [0, D] where these are too few."""
        if self.kind == "kaldi":
            return self._of_kaldi(samples)
        size = len(self.window)
        if self.kind == "centered" and len(samples) > size // 2:
            samples = np.pad(samples, size // 2, "reflect")
        elif self.kind == "centered" or len(samples) < size:
            return np.zeros((0, self.mel.shape[1]), np.float32)
        frames = self._frames(samples)
        return self._log_mel(np.fft.rfft(frames * self.window), LEAST_POWER)

    def _of_kaldi(self, samples: np.ndarray) -> np.ndarray:
        size, half = len(self.window), self.hop // 2
        if len(samples) + half < self.hop:
            return np.zeros((0, self.mel.shape[1]), np.float32)
        before = size // 2 - half
        after = size + half - self.hop - before
        frames = self._frames(np.pad(samples, (before, after), "symmetric"))
        frames = frames - frames.mean(axis=1, keepdims=True)
        earlier = np.concatenate((frames[:, :1], frames[:, :-1]), axis=1)
        frames = (frames - np.float32(PREEMPHASIS) * earlier) * self.window
        spectrum = np.fft.rfft(frames, 2 * (len(self.mel) - 1))
        return self._log_mel(spectrum, KALDI_LEAST_POWER)

    def _frames(self, samples: np.ndarray) -> np.ndarray:
        view = np.lib.stride_tricks.sliding_window_view
        return view(samples, len(self.window))[:: self.hop]

    def _log_mel(self, spectrum: np.ndarray, least: float) -> np.ndarray:
        power = spectrum.real**2 + spectrum.imag**2
        return np.log(np.maximum(power.astype(np.float32) @ self.mel, least))


def packed(array: np.ndarray) -> dict:
    """An array as json has it."""
    data = zlib.compress(np.ascontiguousarray(array, np.float32).tobytes(), 9)
    return dict(shape=list(array.shape), data=base64.b64encode(data).decode())


def unpacked(stored: dict) -> np.ndarray:
    """What `packed` was given.

    Raises:
        ValueError, TypeError, KeyError, zlib.error: it was not written by that.
    """
    size = math.prod(stored["shape"])
    if not 0 < size <= LARGEST:
        raise ValueError("an array is too large, or empty")
    data = base64.b64decode(stored["data"])
    # Whatever is in it, no more memory than the array's
    data = zlib.decompressobj().decompress(data, 4 * size)
    return np.frombuffer(data, np.float32).reshape(stored["shape"])


def collapsed(best: np.ndarray) -> list[int]:
    """Tokens of frames [T], once for each run, without blanks (0)."""
    first = np.diff(best, prepend=-1) != 0
    return best[first & (best != BLANK)].tolist()


def checked(samples: np.ndarray) -> np.ndarray:
    """Samples as float32 [N].

    Raises:
        InputError: they are no audio.
    """
    samples = np.asarray(samples)
    if samples.ndim != 1 or samples.dtype.kind != "f":
        raise InputError(
            f"samples of shape {samples.shape} and type {samples.dtype} must be [N], "
            "floats of full scale 1."
        )
    if not np.isfinite(samples).all() or (np.abs(samples) > LOUDEST).any():
        raise InputError("a sample is not a finite number of at most 2**31.")
    return samples.astype(np.float32)


def read(path: Path, rate: int) -> np.ndarray:
    """Samples [N] of a file, channels averaged.

    Raises:
        InputError: it cannot be read, is empty, or has another sampling rate.
    """
    import soundfile

    if not is_file(path):
        raise InputError("is no file.")
    try:
        samples, own = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
        raise InputError(f"cannot be read as audio: {_one_line(error)}") from error
    if own != rate:
        raise InputError(f"has {own} samples a second; the model takes {rate}.")
    if not len(samples):
        raise InputError("has no samples.")
    return samples.mean(axis=1)


def is_file(path: str | Path) -> bool:
    """Whether a file is there; what no file system could name is not."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def pieces(
    parts: Iterable[np.ndarray], rate: int, longest: float = LONGEST_PIECE
) -> Iterator[np.ndarray]:
    """Cut audio into pieces that a recogniser can take at once.

    A cut is in the middle of the quietest stretch (0.2 s; of a longer one that is as
    quiet, its middle) between half of the longest length and the longest. The last
    piece may be shorter.

    Args:
        parts: Audio as it comes, each [n]; the pieces do not depend on the parts.
        rate: Samples a second.
        longest: Seconds of the longest piece; what is not longer is not cut.

    Returns:
        The pieces [N], one after another; joined, they are the audio.
    """
    most = int(longest * rate)
    rest = np.empty(0, np.float32)
    for part in parts:
        rest = np.concatenate([rest, part]) if len(rest) else part
        # Only what is known to go on long enough, such that parts make no difference.
        while len(rest) - shortest_rest(most, rate) >= most:
            cut = place_to_cut(rest, most, rate)
            yield rest[:cut]
            rest = rest[cut:]
    if len(rest) > most:
        cut = place_to_cut(rest, most, rate)
        yield rest[:cut]
        rest = rest[cut:]
    yield rest


def shortest_rest(most: int, rate: int) -> int:
    """Samples that a cut leaves, at least, where pieces have at most `most`."""
    return min(int(SHORTEST_REST * rate), most // 2)


def place_to_cut(samples: np.ndarray, most: int, rate: int) -> int:
    """Where [N] with N > `most` is cut: at `most` or before, and a rest remains.

    In the middle of the quietest stretch (0.2 s; of a longer one that is as quiet, its
    middle) between half of the longest length and the longest.
    """
    first = most // 2
    last = min(most, len(samples) - shortest_rest(most, rate))
    hop = max(1, int(rate) // HOPS_PER_SECOND)
    hops = (last - first) // hop
    if hops < STRETCH:
        return (first + last + 1) // 2
    power = np.square(samples[first : first + hops * hop], dtype=np.float64)
    power = power.reshape(hops, hop).sum(axis=1)
    stretches = np.lib.stride_tricks.sliding_window_view(power, STRETCH).sum(axis=1)
    quiet = np.flatnonzero(stretches == stretches.min())
    runs = np.split(quiet, np.flatnonzero(np.diff(quiet) > 1) + 1)
    run = max(runs, key=len)
    return first + (int(run[0]) + int(run[-1]) + STRETCH) * hop // 2


def main(argv: Sequence[str] | None = None) -> int:
    """Write a line for every file: its name, the text, and the real-time factor."""
    parser = argparse.ArgumentParser(
        description="Write what a model hears in audio files, a line each: name, text, "
        "seconds that it took, and these as a share of the audio's."
    )
    parser.add_argument(
        "model", type=Path, help=".onnx file of `espnet-dynsize export`"
    )
    parser.add_argument("audio", nargs="+", type=Path, help="wav, flac, ogg, … files")
    parser.add_argument("--threads", type=int, default=1, help="%(default)s")
    parser.add_argument(
        "--beam_size",
        type=int,
        default=1,
        help="of CTC: above 1, a search by flashlight-text (%(default)s)",
    )
    args = parser.parse_args(argv)
    try:
        model = Model(args.model, args.threads, args.beam_size)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    failed = False
    try:
        for path in args.audio:
            try:
                print(_line(model, path), flush=True)
            except InputError as error:
                print(f"{path}: {error}", file=sys.stderr)
                failed = True
    except BrokenPipeError:  # `| head`
        # Python would try again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 2 if failed else 0


def _line(model: Model, path: Path) -> str:
    samples = read(path, model.rate)
    start = time.perf_counter()
    text = model.transcribe(samples)
    took = time.perf_counter() - start
    factor = took * model.rate / len(samples)
    return f"{path}\t{text}\t{took:.4f} s\tRTF {factor:.3f}"


if __name__ == "__main__":
    sys.exit(main())
