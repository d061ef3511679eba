"""Speech for recognisers, whole and in parts."""

import numpy as np


def noise(seconds):
    """Noise that is another one every 50 ms: louder, softer, higher, lower."""
    random = np.random.default_rng(7)
    samples = random.standard_normal(int(16_000 * seconds)).astype(np.float32)
    for begin in range(0, len(samples), 800):
        part = samples[begin : begin + 800]
        part *= 10 ** random.uniform(-3, 0)
        samples[begin : begin + 800] = np.convolve(part, random.random(9), "same")[
            : len(part)
        ]
    return samples


def in_parts(recogniser, audio, samples):
    heard = [
        recogniser.accept(audio[begin : begin + samples])
        for begin in range(0, len(audio), samples)
    ]
    return recogniser.finish(), heard
