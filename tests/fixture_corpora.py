"""Small corpora in the exact layout of large ones, made of AN4's audio.

    python tests/fixture_corpora.py librispeech --corpus_dir AN4 --output_dir DIR
    python tests/fixture_corpora.py tedlium2 --corpus_dir AN4 --output_dir DIR

DIR/LibriSpeech or DIR/TEDLIUM_release2 can then be given to the recipe of that corpus.
"""

import argparse
import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile

from espnet_dynsize.corpora import an4
from espnet_dynsize.corpora.datadir import Utterance

RATE = 16000
GAP = 0.4  # seconds between the segments of a talk
PARTS = (
    "train-clean-100",
    "train-clean-360",
    "train-other-500",
    "dev-clean",
    "dev-other",
)


def by_speaker(utterances: Sequence[Utterance]) -> list[list[Utterance]]:
    speakers: dict[str, list] = {}
    for utterance in sorted(utterances):
        speakers.setdefault(utterance.speaker, []).append(utterance)
    return [speakers[name] for name in sorted(speakers)]


def write_librispeech(
    output_dir: Path, train: Sequence[Utterance], test: Sequence[Utterance]
) -> Path:
    """Spread the speakers over the parts; each reads one or two chapters."""
    root = output_dir / "LibriSpeech"
    readers = []
    split = {part: by_speaker(train)[i::5] for i, part in enumerate(PARTS)}
    split["test-clean"] = by_speaker(test)[::2]
    split["test-other"] = by_speaker(test)[1::2]
    for part, speakers in split.items():
        for own in speakers:
            reader = 100 + len(readers)
            readers.append((reader, part, sum(1 for _ in own)))
            half = (len(own) + 1) // 2
            for chapter, read in enumerate((own[:half], own[half:])):
                if read:
                    _write_chapter(root / part, reader, 1000 + chapter, read)
    _write_books(root, readers)
    return root


def _write_chapter(part: Path, reader: int, chapter: int, own) -> None:
    folder = part / str(reader) / str(chapter)
    folder.mkdir(parents=True)
    lines = []
    for number, utterance in enumerate(own):
        name = f"{reader}-{chapter}-{number:04}"
        samples, _ = soundfile.read(utterance.wav)
        soundfile.write(folder / f"{name}.flac", samples, RATE)
        lines.append(f"{name} {utterance.text.upper()}\n")
    (folder / f"{reader}-{chapter}.trans.txt").write_text("".join(lines))


def _write_books(root: Path, readers) -> None:
    speakers = [
        "; Some explanations and legend\n;ID  |SEX| SUBSET           |MINUTES| NAME\n"
    ]
    speakers += [
        f"{r:<5}| F | {part:<17}| {n / 10:.2f} | Reader {r}\n" for r, part, n in readers
    ]
    chapters = [";ID    |READER|MINUTES| SUBSET           | PROJ.|BOOK ID| CH. TITLE\n"]
    (root / "SPEAKERS.TXT").write_text("".join(speakers))
    (root / "CHAPTERS.TXT").write_text("".join(chapters))
    for name in ("BOOKS.TXT", "LICENSE.TXT", "README.TXT"):
        (root / name).write_text("A fixture in LibriSpeech's layout.\n")


def write_tedlium2(
    output_dir: Path, train: Sequence[Utterance], test: Sequence[Utterance]
) -> Path:
    """One talk a speaker; a part of the training speakers are `dev`."""
    root = output_dir / "TEDLIUM_release2"
    speakers = by_speaker(train)
    split = {"train": speakers[2:], "dev": speakers[:2], "test": by_speaker(test)}
    for name, talks in split.items():
        for folder in ("sph", "stm"):
            (root / name / folder).mkdir(parents=True)
        for own in talks:
            _write_talk(root / name, own, name == "train")
    (root / "LM").mkdir()
    with gzip.open(root / "LM" / "train.en.gz", "wt") as file:
        file.writelines(f"{u.text.lower()} </s>\n" for u in train)
    return root


def _write_talk(folder: Path, own: Sequence[Utterance], train: bool) -> None:
    talk = f"{own[0].speaker.capitalize()}Speaker_2010"
    silence = np.zeros(int(GAP * RATE))
    pieces, lines, time = [silence], [], GAP
    label = "<o,f0,female>" if train else "<F0_F>"
    for number, utterance in enumerate(own):
        samples, _ = soundfile.read(utterance.wav)
        end = time + len(samples) / RATE
        lines.append(
            f"{talk} 1 {talk} {time:.2f} {end:.2f} {label} {_spoken(utterance, number)}"
        )
        if train:
            lines[-1] += f" ({talk}-{time:.2f}-{end:.2f}-F0_F-S{number})"
        else:
            gap = f"{talk} 1 inter_segment_gap {end:.2f} {end + GAP:.2f} <o,,unknown>"
            lines.append(f"{gap} ignore_time_segment_in_scoring")
        pieces += [samples, silence]
        time = end + GAP
    soundfile.write(
        folder / "sph" / f"{talk}.sph",
        np.concatenate(pieces),
        RATE,
        "PCM_16",
        format="NIST",
    )
    (folder / "stm" / f"{talk}.stm").write_text("\n".join(lines) + "\n")


def _spoken(utterance: Utterance, number: int) -> str:
    """Text with what TED-LIUM's transcripts have besides words."""
    text = utterance.text.lower()
    extra = ("<sil> " + text, text + "(2)", text + " it 's", text + " <unk>", text)
    return extra[number % len(extra)]


LAYOUTS = {"librispeech": write_librispeech, "tedlium2": write_tedlium2}


def limited(utterances: Sequence[Utterance], speakers: int, each: int) -> Iterator:
    for own in by_speaker(utterances)[:speakers]:
        yield from own[:each]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("layout", choices=LAYOUTS)
    parser.add_argument("--corpus_dir", type=Path, required=True, help="folder of AN4")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--speakers", type=int, default=1000, help="at most, per split")
    parser.add_argument("--each", type=int, default=1000, help="utterances a speaker")
    args = parser.parse_args()
    train, test = (
        list(limited(an4.read_split(args.corpus_dir, s), args.speakers, args.each))
        for s in ("train", "test")
    )
    print(LAYOUTS[args.layout](args.output_dir, train, test))


if __name__ == "__main__":
    main()
