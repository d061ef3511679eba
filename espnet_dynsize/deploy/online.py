"""Features of audio that comes in parts."""

from collections.abc import Callable, Mapping

import torch

from espnet_dynsize.core.errors import check
from espnet_dynsize.deploy.experiment import sampling_rate


class OnlineFeatures:
    """The features of audio that comes in parts: those of the whole, frame by frame.

    A frame is put out when all samples of its window are there. (ESPnet's script loses
    frames where the first part is not longer than a window.)

    Args:
        model: Makes them, with a `DefaultFrontend` that centres its windows.
    """

    def __init__(self, model: torch.nn.Module):
        self._model = model
        stft = model.frontend.stft
        self._hop, self._n_fft = stft.hop_length, stft.n_fft
        # Frames whose windows reach over an end of what is transformed; one to spare
        self._margin = -(-self._n_fft // 2 // self._hop) + 1
        self._samples = torch.empty(0)
        # Of frames: the number of the first that is transformed, and of those put out
        self._first, self.done = 0, 0

    def add(self, samples: torch.Tensor, final: bool) -> torch.Tensor:
        """The frames [1, L, D] that are known by now.

        Args:
            samples: What has come, [n].
            final: Nothing will come after it.
        """
        self._samples = torch.cat([self._samples, samples])
        known = self._first + self.frames(len(self._samples), final)
        if known <= self.done:
            return torch.empty(1, 0, self._model.frontend.output_size())
        parameter = next(self._model.parameters())
        speech = self._samples[None].to(parameter)
        lengths = torch.tensor([speech.size(1)], device=speech.device)
        features, lengths = self._model._extract_feats(speech, lengths)
        if self._model.normalize is not None:
            features, _ = self._model.normalize(features, lengths)
        features = features[:, self.done - self._first : known - self._first]
        self.done = known
        first = max(known - self._margin, 0)
        self._samples = self._samples[(first - self._first) * self._hop :]
        self._first = first
        return features

    def frames(self, samples: int, final: bool) -> int:
        """How many frames the samples have whose windows are whole."""
        mirrored = self._n_fft // 2  # at both ends, for which more is needed
        if samples <= mirrored:
            return 0
        padded = samples + (2 if final else 1) * mirrored
        return (padded - self._n_fft) // self._hop + 1


class OnlineAudio:
    """ESPnet's `OnlineAudioProcessor` with the features of the whole utterance.

    ESPnet's has these only with n_fft an even multiple of hop_length, at 16 kHz, with a
    subsampling of 4 and windows of a whole number of the encoder's frames.

    Args:
        feature_extractor: A model's method that makes features.
        normalization_module: The model's own.
        decoding_window: Milliseconds of audio in a part.
        encoder_sub_factor: Frames of features for one of the encoder.
        frontend_conf: The front-end's options.
        device: Where the model is.
    """

    def __init__(
        self,
        feature_extractor: Callable,
        normalization_module: torch.nn.Module | None,
        decoding_window: int,
        encoder_sub_factor: int,
        frontend_conf: Mapping,
        device: torch.device | str,
    ):
        self._model = feature_extractor.__self__
        self._factor, self._device = encoder_sub_factor, device
        stft = self._model.frontend.stft
        self._hop, self._overlap = stft.hop_length, stft.n_fft - stft.hop_length
        rate = sampling_rate({"frontend_conf": frontend_conf})
        self._window = decoding_window
        self.decoding_samples = round(decoding_window * rate / 1000)
        self.reset_cache()

    def reset_cache(self) -> None:
        """Forget the utterance."""
        self._features = OnlineFeatures(self._model)
        self._samples = 0
        # Features of the part before, from the beginning of one of the encoder's frames
        self._kept = None

    def compute_features(
        self, samples: torch.Tensor, is_final: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The next features [1, L, D] and their number [1], with some of those before.

        ESPnet's encoder drops the first and the last frame that its subsampling makes
        of them.

        Args:
            samples: What has come, [n].
            is_final: Nothing will come after it. It is filled up with silence to a
                decoding window, as ESPnet does.

        Raises:
            ConfigError: the decoding window is too short for a frame.
        """
        if is_final:
            samples = torch.nn.functional.pad(samples, (0, self._missing(len(samples))))
        self._samples += len(samples)
        found = self._features.add(samples.cpu(), is_final).to(self._device)
        if self._kept is not None:
            found = torch.cat([self._kept, found], dim=1)
        lengths = torch.tensor([found.size(1)], device=found.device)
        frames = int(self._model.encoder.embed.get_output_lengths(lengths))
        allowed = "longer: it has no frame of the encoder's"
        check(frames > 2, "decoding_window", self._window, allowed)
        # The next part begins with the last but one of these, which is dropped there.
        begin = (frames - 2) * self._factor
        self._kept = found[:, begin:]
        return found, lengths

    def frames(self, samples: int) -> int:
        """How many frames the encoder has, of so many samples and more to come.

        It puts out all but the first and the last one.
        """
        known = torch.tensor([self._features.frames(samples, final=False)])
        return int(self._model.encoder.embed.get_output_lengths(known))

    def _missing(self, samples: int) -> int:
        """How much silence fills up the last part of an utterance."""
        kept = self._overlap + (self._samples - self._overlap) % self._hop
        kept = kept if self._samples else 0
        return max(self.decoding_samples - kept - samples, 0)
