"""Speech synthesis with eSpeak NG, from the pip package `espeakng-loader`."""

import ctypes

import numpy as np

from espnet_dynsize.core.errors import ConfigError

_AUDIO_OUTPUT_SYNCHRONOUS = 2
_RATE, _PITCH = 1, 3
_UTF8 = 1
_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class Synthesizer:
    """Text to a waveform; the same arguments always give the same samples.

    Raises:
        ConfigError: the package `espeakng-loader` is not installed.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError:
            raise ConfigError(
                "corpus=digits needs the package espeakng-loader: "
                "pip install espeakng-loader."
            ) from None
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self.rate: int = self._library.espeak_Initialize(
            _AUDIO_OUTPUT_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0
        )
        self._chunks: list[np.ndarray] = []
        self._callback = _CALLBACK(self._receive)  # kept: the library calls it
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: object, count: int, events: object) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def say(self, text: str, voice: str, words_per_minute: int, pitch: int):
        """Speak `text`.

        Args:
            text: What to say.
            voice: eSpeak voice and variant, for example `en-us+m3`.
            words_per_minute: 80 to 450.
            pitch: 0 to 99.

        Returns:
            float32 samples in [-1, 1] at `self.rate` Hz.

        Raises:
            ConfigError: the voice does not exist.
        """
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ConfigError(f"voice={voice} is not an eSpeak voice.")
        self._library.espeak_SetParameter(_RATE, words_per_minute, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        self._chunks = []
        encoded = text.encode() + b"\0"
        self._library.espeak_Synth(encoded, len(encoded), 0, 0, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        return np.concatenate(self._chunks).astype(np.float32) / 2**15
