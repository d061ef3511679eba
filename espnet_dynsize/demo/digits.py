"""Synthetic connected digits: a corpus that needs no download."""

import random
import sys
from collections.abc import Sequence
from pathlib import Path

import soundfile
import torch
import torchaudio

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.files import new_folder
from espnet_dynsize.core.process import run_child
from espnet_dynsize.corpora.datadir import Utterance, write_data_dirs
from espnet_dynsize.demo.espeak import Synthesizer

WORDS = ["ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE"]
RATE = 16000
# Variants of eSpeak's formant voices; the test speakers are not in the training set.
TRAIN_VOICES = [
    f"{accent}+{variant}"
    for accent in ("en-us", "en")
    for variant in ("m1", "m2", "m3", "m4", "m6", "m7", "f1", "f2", "f3", "f4")
]
TEST_VOICES = [f"{accent}+{v}" for accent in ("en-us", "en") for v in ("m5", "f5")]
COUNTS = {"train": 1000, "valid": 80, "test": 120}


def prepare(audio: Path, data: Path) -> dict[str, Path]:
    """Write `data/{train,valid,test}`; audio is synthesised once, into `audio`."""
    splits = {}
    for split, count in COUNTS.items():
        if not (audio / split).exists():
            # eSpeak's filters remember what they said before, so the same samples
            # come only from a fresh process that says everything in order.
            command = [sys.executable, "-m", __name__, str(audio / split), split]
            if run_child([*command, str(count)]) != 0:
                raise ConfigError(f"{split}: no speech was synthesised, see above.")
        splits[split] = [
            u._replace(wav=(audio / split / f"{u.id}.wav").resolve())
            for u in plan(split, count)
        ]
    return write_data_dirs(data, splits)


def plan(split: str, count: int) -> list[Utterance]:
    """What will be said, by whom; the utterance's id seeds its rate and pitch."""
    voices = TEST_VOICES if split == "test" else TRAIN_VOICES
    dice = random.Random(f"digits {split}")
    utterances = []
    for number in range(count):
        speaker = voices[number % len(voices)].replace("+", "-")
        text = " ".join(dice.choices(WORDS, k=dice.randint(2, 5)))
        utterances.append(
            Utterance(f"{speaker}-{split}{number:04}", speaker, Path(), text)
        )
    return utterances


def synthesise(folder: Path, utterances: Sequence[Utterance]) -> None:
    """Write one wav file an utterance; the folder appears when all are there."""
    synthesizer = Synthesizer()
    with new_folder(folder) as unfinished:
        for utterance in utterances:
            dice = random.Random(utterance.id)
            accent, variant = utterance.speaker.rsplit("-", 1)
            samples = synthesizer.say(
                utterance.text.lower(),
                voice=f"{accent}+{variant}",
                words_per_minute=dice.randint(130, 210),
                pitch=dice.randint(25, 75),
            )
            resampled = torchaudio.functional.resample(
                torch.from_numpy(samples), synthesizer.rate, RATE
            )
            soundfile.write(unfinished / f"{utterance.id}.wav", resampled.numpy(), RATE)


if __name__ == "__main__":
    synthesise(Path(sys.argv[1]), plan(sys.argv[2], int(sys.argv[3])))
