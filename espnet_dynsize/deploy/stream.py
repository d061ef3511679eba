"""What recognisers of speech that comes in parts have in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NoReturn

import numpy as np
import torch
from espnet2.asr.ctc import CTC

from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.deploy.recogniser import checked_audio
from espnet_dynsize.train.transducer_model import AuxiliaryCTC


class Stream(ABC):
    """Mixin for a `Speech2Text` that is handed audio as it comes.

    One object hears one stream; `finish` ends an utterance; the next one may follow.

    Attributes:
        rate: Samples a second of the audio that it takes.
        blank: The token that says nothing.
        text: What has been heard of the utterance by now.
        tokens: The same in tokens.
    """

    def reset(self) -> None:
        """Forget the utterance."""
        self._hold([])
        self._ended = False

    @property
    @abstractmethod
    def delay(self) -> float:
        """Seconds of audio that what is put out at once waits for."""

    @property
    @abstractmethod
    def frame_seconds(self) -> float:
        """Of audio that a frame of the encoder stands for."""

    def accept(
        self, samples: np.ndarray | torch.Tensor, rate: int | None = None
    ) -> str:
        """Hear the next samples.

        Args:
            samples: [n], floats or integers, see `Recogniser`.
            rate: Of the samples; None: they have the right one.

        Returns:
            What has been heard of the utterance by now; later samples may change it.

        Raises:
            ConfigError: they are no audio at the model's sampling rate.
        """
        if rate is not None:
            check(rate == self.rate, "sampling rate", rate, f"{self.rate}, the model's")
        if len(samples) > 0:
            # Of a whole recording, a part at a time
            for part in checked_audio(samples).float().cpu().split(10 * self.rate):
                self._hear(part, final=False)
        return self.text

    def finish(self) -> str:
        """The text of the utterance, which has ended; empty if it is too short."""
        self._hear(torch.empty(0), final=True)
        # Can be read until the next utterance begins.
        self._ended = True
        return self.text

    def __call__(self, *args, **options) -> NoReturn:
        """Refuse ESPnet's way, which loses frames and knows nothing of this state.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("call accept and finish of a recogniser that streams.")

    def _hear(self, samples: torch.Tensor, final: bool) -> None:
        if self._ended:
            self.reset()
        try:
            self._encode(samples, final)
        except BaseException:
            self.reset()  # what is left is no utterance
            raise

    @abstractmethod
    def _encode(self, samples: torch.Tensor, final: bool) -> None:
        """Hear samples [n], floats on the CPU; `final`: nothing will follow."""

    def _hold(self, tokens: list[int]) -> None:
        """Take tokens for what is heard."""
        self.tokens: list[str] = self.converter.ids2tokens(tokens)
        self.text = self.join(self.tokens)

    def join(self, tokens: Sequence[str]) -> str:
        """The text of tokens."""
        if self.tokenizer is None:
            return " ".join(tokens)
        return self.tokenizer.tokens2text(tokens)

    @torch.no_grad()
    def log_probs(self, samples: np.ndarray) -> torch.Tensor | None:
        """What CTC makes of the whole utterance [N]: log probabilities [1, T, V].

        None where there is no CTC.
        """
        ctc, parameter = self._ctc(), next(self.asr_model.parameters())
        if ctc is None:
            return None
        speech = torch.from_numpy(samples)[None].to(parameter)
        lengths = torch.tensor([speech.size(1)], device=speech.device)
        encoded, _ = self.asr_model.encode(speech, lengths)
        return ctc.log_softmax(encoded).float().cpu()

    @abstractmethod
    def _ctc(self) -> CTC | AuxiliaryCTC | None:
        """What has been trained to align."""
