"""Kaldi-style data directories, the input of every ESPnet stage."""

import gzip
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import soundfile

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.files import check_replaceable, write_text

# Seconds by which a segment may end after its audio, which is cut there: Kaldi's limit
OVERSHOOT = 0.5


class Utterance(NamedTuple):
    """One utterance and what is said in it."""

    id: str
    speaker: str
    wav: Path
    text: str
    span: tuple[float, float] | None = None  # seconds in `wav`; None: all of it


def read_lines(path: Path) -> list[str]:
    """Lines of a corpus's text file, without the empty ones.

    Raises:
        ConfigError: it is not text.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} must be UTF-8 text: {error}.") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_packed_lines(path: Path) -> Iterator[str]:
    """Lines of a large text that is packed with gzip.

    Raises:
        ConfigError: it is damaged, or not text.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            yield from file
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} must be UTF-8 text: {error}.") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ConfigError(f"{path} is not a whole gzip file: {error}.") from error


def write_data_dirs(
    data: Path, splits: Mapping[str, Iterable[Utterance]]
) -> dict[str, Path]:
    """Write `data/<name>/{wav.scp,text,utt2spk,spk2utt}` and, for spans, `segments`.

    Args:
        data: Folder of the data directories.
        splits: Name → utterances.

    Returns:
        Name → directory.

    Raises:
        ConfigError: a file is there that is not this function's; nothing is written.
    """
    folders = {name: Path(data) / name for name in splits}
    texts = {
        folders[name] / file: "".join(f"{line}\n" for line in lines)
        for name, utterances in splits.items()
        for file, lines in _files(sorted(utterances)).items()
    }
    # Segments of another corpus would be taken for this one's.
    others = [folder / "segments" for folder in folders.values()]
    others = [path for path in others if path not in texts]
    check_replaceable([*others, *(p for p, text in texts.items() if _differs(p, text))])
    for path in others:
        path.unlink(missing_ok=True)
    for path, text in texts.items():
        write_text(path, text)
    return folders


def _differs(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() != text.encode()


def _files(utterances: Sequence[Utterance]) -> dict[str, list[str]]:
    speakers: dict[str, list] = {}
    for utterance in utterances:
        speakers.setdefault(utterance.speaker, []).append(utterance.id)
    files = {
        "text": [f"{u.id} {u.text}" for u in utterances],
        "utt2spk": [f"{u.id} {u.speaker}" for u in utterances],
        "spk2utt": [f"{s} {' '.join(ids)}" for s, ids in sorted(speakers.items())],
    }
    segments = [(u, u.wav.stem) for u in utterances if u.span]
    if segments:
        files["wav.scp"] = sorted({f"{name} {u.wav}" for u, name in segments})
        files["segments"] = [
            f"{u.id} {name} {u.span[0]:.3f} {u.span[1]:.3f}" for u, name in segments
        ]
    else:
        files["wav.scp"] = [f"{u.id} {u.wav}" for u in utterances]
    return files


def check_utterances(name: str, utterances: Sequence[Utterance]) -> None:
    """Look for what would make a later stage fail, or worse, not fail.

    Args:
        name: What the utterances are, for the message.
        utterances: With absolute paths.

    Raises:
        ConfigError: there are none, two share an id, a text is empty, or audio has a
            space in its path, cannot be read to its end, or ends before or well
            within an utterance.
    """
    if not utterances:
        raise ConfigError(f"{name} has no utterances.")
    ids: set[str] = set()
    for u in utterances:
        if u.id in ids:
            raise ConfigError(f"{name}: utterance {u.id} is there twice.")
        ids.add(u.id)
        if not u.text.strip():
            raise ConfigError(f"{name}: utterance {u.id} has an empty transcript.")
        if any(c.isspace() for c in str(u.wav)):
            raise ConfigError(
                f"{name}: '{u.wav}' has a space in its path, which Kaldi-style files "
                "cannot hold; move or link the corpus."
            )
    wavs = sorted({u.wav for u in utterances})
    with ThreadPoolExecutor() as pool:
        seconds = dict(zip(wavs, pool.map(_seconds, wavs)))
    for u in utterances:
        if u.span and not 0 <= u.span[0] < u.span[1]:
            raise ConfigError(f"{name}: utterance {u.id} has the times {u.span}.")
        if u.span and u.span[0] >= seconds[u.wav]:
            raise ConfigError(
                f"{name}: utterance {u.id} begins at {u.span[0]} s, but {u.wav} is "
                f"only {seconds[u.wav]:.2f} s long."
            )
        if u.span and u.span[1] > seconds[u.wav] + OVERSHOOT:
            raise ConfigError(
                f"{name}: utterance {u.id} ends at {u.span[1]:.2f} s, but {u.wav} is "
                f"only {seconds[u.wav]:.2f} s long."
            )


def _seconds(wav: Path) -> float:
    try:
        with soundfile.SoundFile(str(wav)) as file:
            if file.frames == 0:
                raise ConfigError(f"audio {wav} has no samples.")
            # Of a file that has been cut, the header says how long it was.
            file.seek(file.frames - 1)
            return file.frames / file.samplerate
    except soundfile.LibsndfileError as error:
        raise ConfigError(
            f"audio {wav} cannot be read, or not to its end: {error.error_string}"
        ) from error
