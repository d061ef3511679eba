"""Synthetic connected digits: a corpus that needs no download."""

import random
from pathlib import Path
from typing import Dict, List, Sequence

import soundfile
import torch
import torchaudio

from espnet_dynsize.demo.datadir import Utterance, write_data_dir
from espnet_dynsize.demo.espeak import Synthesizer

WORDS = "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE".split()
RATE = 16000
# Variants of eSpeak's formant voices; the test speakers are not in the training set.
TRAIN_VOICES = [
    f"{accent}+{variant}"
    for accent in ("en-us", "en")
    for variant in ("m1", "m2", "m3", "m4", "m6", "m7", "f1", "f2", "f3", "f4")
]
TEST_VOICES = [f"{accent}+{v}" for accent in ("en-us", "en") for v in ("m5", "f5")]
COUNTS = {"train": 1000, "valid": 80, "test": 120}


def prepare(audio: Path, data: Path) -> Dict[str, Path]:
    """Write `data/{train,valid,test}`; audio is synthesised once, into `audio`."""
    return {
        split: write_data_dir(data / split, _split(audio / split, split, count))
        for split, count in COUNTS.items()
    }


def _split(audio: Path, split: str, count: int) -> List[Utterance]:
    voices = TEST_VOICES if split == "test" else TRAIN_VOICES
    utterances = plan(split, count, voices)
    missing = [u for u in utterances if not (audio / f"{u.id}.wav").exists()]
    if missing:
        audio.mkdir(parents=True, exist_ok=True)
        _synthesise(audio, missing)
    return [u._replace(wav=(audio / f"{u.id}.wav").resolve()) for u in utterances]


def plan(split: str, count: int, voices: Sequence[str]) -> List[Utterance]:
    """What will be said, by whom; the utterance's id seeds its rate and pitch."""
    dice = random.Random(f"digits {split}")
    utterances = []
    for number in range(count):
        speaker = voices[number % len(voices)].replace("+", "-")
        text = " ".join(dice.choices(WORDS, k=dice.randint(2, 5)))
        utterances.append(Utterance(f"{speaker}-{split}{number:04}", speaker, Path(), text))
    return utterances


def _synthesise(audio: Path, utterances: Sequence[Utterance]) -> None:
    synthesizer = Synthesizer()
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
        # A name of its own until it is whole: an interrupted run leaves no half file.
        unfinished = audio / f"{utterance.id}.unfinished"
        soundfile.write(unfinished, resampled.numpy(), RATE, format="WAV")
        unfinished.rename(audio / f"{utterance.id}.wav")
