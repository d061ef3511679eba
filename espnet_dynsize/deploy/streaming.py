"""Speech recognised while it is spoken, chunk by chunk."""

import torch
from espnet2.asr.ctc import CTC
from espnet2.bin.asr_inference_streaming import Speech2TextStreaming

from espnet_dynsize.core.errors import check
from espnet_dynsize.deploy.experiment import sampling_rate
from espnet_dynsize.deploy.online import OnlineFeatures
from espnet_dynsize.deploy.recogniser import least_frames
from espnet_dynsize.deploy.stream import Stream


class StreamingRecogniser(Stream, Speech2TextStreaming):
    """ESPnet's streaming recogniser, which is handed audio as it comes.

    With ESPnet's blockwise beam search (arXiv 2006.14941), which is told the encoder's
    blocks; a model that has only CTC takes the best token of every frame unless it is
    given a `beam_size` above 1.
    """

    taken = ("batch_size", "nbest")

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        config = vars(self.asr_train_args)
        self.rate, self.blank = sampling_rate(config), self.asr_model.blank_id
        search = self.beam_search
        # ESPnet's script leaves them at 40, 16 and 16.
        for key in ("block_size", "hop_size", "look_ahead"):
            setattr(search, key, config["encoder_conf"][key])
        good = self.maxlenratio >= 0
        allowed = "at least 0: how long the audio will be is not known"
        check(good, "maxlenratio", self.maxlenratio, allowed)
        # Nothing that a search would weigh against the best path
        bound = self.maxlenratio or self.minlenratio
        alone = set(search.scorers) == {"ctc"}
        self._greedy = search.beam_size == 1 and alone and not bound

    def reset(self) -> None:
        """See `Stream.reset`."""
        Stream.reset(self)
        Speech2TextStreaming.reset(self)
        self._features = OnlineFeatures(self.asr_model)
        self._path: list[int] = []
        self._last = self.asr_model.blank_id

    @property
    def delay(self) -> float:
        """Seconds of audio that a block waits for.

        Of the `hop_size` frames that it puts out, and the `look_ahead` after these.
        """
        encoder = self.asr_model.encoder
        frames = encoder.hop_size + encoder.look_ahead
        return frames * self.frame_seconds

    @property
    def frame_seconds(self) -> float:
        """See `Stream.frame_seconds`."""
        hop = self.asr_model.frontend.hop_length
        return self.asr_model.encoder.subsample * hop / self.rate

    @torch.no_grad()
    def _encode(self, samples: torch.Tensor, final: bool) -> None:
        features = self._features.add(samples, final)
        # The encoder's last call needs no new frames, only some at all.
        if self._features.done < (least_frames(self.asr_model) if final else 1):
            return
        if features.size(1) == 0 and not final:
            return
        features = features.to(next(self.asr_model.parameters()))
        encoded, _, self.encoder_states = self.asr_model.encoder(
            features,
            torch.tensor([features.size(1)], device=features.device),
            self.encoder_states,
            is_final=final,
            infer_mode=True,
        )
        self._search(encoded[0], final)

    def _search(self, encoded: torch.Tensor, final: bool) -> None:
        if self._greedy:
            for token in self.asr_model.ctc.argmax(encoded[None])[0].tolist():
                if token != self._last:
                    self._path.append(token)
                self._last = token
            self._take(self._path)
            return
        # Of what has come, a part would be the end for hypotheses.
        most = self.maxlenratio if final else 0.0
        found = self.beam_search(encoded, most, self.minlenratio, final)
        running = self.beam_search.running_hyps
        if final and found:
            self._take(found[0].yseq.tolist())
        # Of those that go on; at the end, where none has come to its own.
        elif running is not None and len(running) > 0:
            best = int(running.score.argmax())
            self._take(running.yseq[best, : running.length[best]].tolist())

    def _take(self, path: list[int]) -> None:
        """Take tokens, with blanks, beginning and end among them, for what is heard."""
        others = (self.asr_model.blank_id, self.asr_model.sos, self.asr_model.eos)
        self._hold([token for token in path if token not in others])

    def _ctc(self) -> CTC | None:
        return self.asr_model.ctc
