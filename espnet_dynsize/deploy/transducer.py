"""Recognisers of ESPnet's task `asr_transducer`, for whole utterances and streams."""

import numpy as np
import torch
from espnet2.bin.asr_transducer_inference import Speech2Text

from espnet_dynsize.deploy.experiment import sampling_rate
from espnet_dynsize.deploy.online import OnlineAudio
from espnet_dynsize.deploy.recogniser import Checked
from espnet_dynsize.deploy.stream import Stream
from espnet_dynsize.train.transducer_model import AuxiliaryCTC

# After so many decoding windows, their ends have met all places within a frame.
_PARTS = 200


class TransducerRecogniser(Checked, Speech2Text):
    """That task's `Speech2Text`, which looks at its input, see `Recogniser`."""

    taken = ("decoding_window", "left_context")

    def __init__(self, *args, **options):
        # `[(text, tokens, ids, hypothesis), …]`, as ESPnet's other one
        super().__init__(*args, return_decoded_hyp=True, **options)

    def _recognise(self, speech):
        if isinstance(speech, list):  # ESPnet's has no batches
            return [super(TransducerRecogniser, self)._recognise(one) for one in speech]
        return super()._recognise(speech)


class StreamingTransducer(Stream, Speech2Text):
    """That task's `Speech2Text`, which is handed audio as it comes.

    Decoding windows, and the search of each, are those of ESPnet's script; the features
    are those of the whole utterance.
    """

    taken, blank = ("nbest",), 0

    def __init__(self, *args, decoding_window: int = 640, **options):
        super().__init__(*args, **options)
        config, model = vars(self.asr_train_args), self.asr_model
        self.rate = sampling_rate(config)
        self._factor = model.encoder.embed.subsampling_factor
        self.audio_processor = OnlineAudio(
            model._extract_feats,
            model.normalize,
            decoding_window,
            self._factor,
            self.asr_train_args.frontend_conf,
            self.device,
        )
        self.reset()
        # Refuses a window that is too short.
        silence = torch.zeros(self.audio_processor.decoding_samples)
        self.audio_processor.compute_features(silence, is_final=False)
        self.reset()

    def reset(self) -> None:
        """See `Stream.reset`."""
        super().reset()
        self.reset_streaming_cache()
        self._waiting = torch.empty(0)
        self._begun = False

    @property
    def delay(self) -> float:
        """Seconds from the beginning of a frame to the end of the audio that it needs.

        The most: of the frame that the decoding window before has just not put out.
        """
        size = self.audio_processor.decoding_samples
        frame = self._factor * self.asr_model.frontend.hop_length
        frames = self.audio_processor.frames
        waits = [
            size * (part + 1) - frame * (frames(size * part) - 1)
            for part in range(1, _PARTS)
        ]
        return max(waits) / self.rate

    @property
    def frame_seconds(self) -> float:
        """See `Stream.frame_seconds`."""
        return self._factor * self.asr_model.frontend.hop_length / self.rate

    def _encode(self, samples: torch.Tensor, final: bool) -> None:
        self._waiting = torch.cat([self._waiting, samples])
        self._begun |= len(samples) > 0
        size = self.audio_processor.decoding_samples
        while len(self._waiting) >= size:
            self._decode(self._waiting[:size], False)
            self._waiting = self._waiting[size:]
        if final and self._begun:
            self._decode(self._waiting, True)

    def _decode(self, samples: torch.Tensor, final: bool) -> None:
        # Of a part, they are in no order.
        found = [*self.streaming_decode(samples, final)]
        best = self.beam_search.sort_nbest(found)[0]
        self._hold([token for token in best.yseq if token != self.blank])

    def log_probs(self, samples: np.ndarray) -> torch.Tensor | None:
        """See `Stream.log_probs`; of silence besides, as it is heard, to a window."""
        missing = max(self.audio_processor.decoding_samples - len(samples), 0)
        return super().log_probs(np.pad(samples, (0, missing)))

    def _ctc(self) -> AuxiliaryCTC | None:
        model = self.asr_model
        return AuxiliaryCTC(model.ctc_lin) if model.use_auxiliary_ctc else None
