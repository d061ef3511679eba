"""Kaldi's log-mel features, which programs for devices make of audio themselves."""

import torch
from espnet2.asr.frontend.abs_frontend import AbsFrontend
from torchaudio.compliance.kaldi import get_mel_banks

from espnet_dynsize.core.errors import check
from espnet_dynsize.core.rate import hertz
from espnet_dynsize.runtime import KALDI_LEAST_POWER, PREEMPHASIS

LEAST_MELS = 4
# Hz: as in sherpa-onnx, from which only the number of mels can be asked
LOWEST, BELOW_NYQUIST = 20.0, -400.0
LEAST_RATE = 2_000  # Below, there would be no frequencies between the lowest and these.


class KaldiFrontend(AbsFrontend):
    """`frontend: kaldi`: log-mel features as `kaldi-native-fbank` computes them.

    Frames of 25 ms every 10 ms, in the middle of these, mirrored at the ends of each
    utterance wherever the batch's are (`snip_edges` false); no dither; without their
    mean, pre-emphasised, with Povey's window. The options are what sherpa-onnx has.

    Args:
        fs: Samples a second; 16k is 16000.
        n_mels: Dimension of the features, D.
        **others: Options of ESPnet's front-end, which must be left out.

    Raises:
        ConfigError: an option is out of range, or not known.
    """

    def __init__(self, fs: int | str = 16000, n_mels: int = 80, **others):
        super().__init__()
        for key, value in others.items():
            allowed = "left out with frontend: kaldi, whose options are fs and n_mels"
            check(False, f"frontend_conf: {key}", value, allowed)
        rate = hertz(fs)
        good = type(rate) is int and rate >= LEAST_RATE
        allowed = f"a whole number of at least {LEAST_RATE}, or text such as 16k"
        check(good, "frontend_conf: fs", fs, allowed)
        self.size, self.hop_length = rate * 25 // 1000, rate // 100
        self.n_fft = 2 ** (self.size - 1).bit_length()
        most = self.n_fft // 2
        good = type(n_mels) is int and LEAST_MELS <= n_mels <= most
        allowed = f"a whole number from {LEAST_MELS} to {most}"
        check(good, "frontend_conf: n_mels", n_mels, allowed)
        # None of its frequencies is warped.
        mel, _ = get_mel_banks(
            n_mels, self.n_fft, float(rate), LOWEST, BELOW_NYQUIST, 100.0, -500.0, 1.0
        )
        # Nothing is heard at the Nyquist frequency: [n_fft // 2 + 1, D].
        mel = torch.nn.functional.pad(mel, (0, 1)).T
        self.register_buffer("mel", mel, persistent=False)
        window = torch.hann_window(self.size, periodic=False) ** 0.85
        self.register_buffer("window", window, persistent=False)

    def output_size(self) -> int:
        """D."""
        return self.mel.size(1)

    def least_samples(self, frames: int) -> int:
        """The shortest audio of which there are so many frames."""
        return frames * self.hop_length - self.hop_length // 2

    def forward(
        self, input: torch.Tensor, input_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features [B, T, D] and lengths [B].

        Args:
            input: Samples [B, N] of full scale 1; of several channels [B, N, C], the
                first is heard.
            input_lengths: [B].
        """
        if input.dim() == 3:
            input = input[..., 0]
        lengths = frames_of(input_lengths, self.hop_length)
        if frames_of(input.size(1), self.hop_length) == 0:
            return self.mel.new_zeros(len(input), 0, self.output_size()), lengths
        samples = mirrored(input, input_lengths, self.size, self.hop_length)
        # There is no Fourier transform in half precision.
        with torch.autocast(input.device.type, enabled=False):
            features = self._features(samples.float()).to(input)
        valid = torch.arange(features.size(1), device=input.device) < lengths[:, None]
        # As ESPnet's front-end does with padding
        return features * valid[..., None], lengths

    def _features(self, samples: torch.Tensor) -> torch.Tensor:
        """[B, T, D] of samples [B, N]."""
        frames = samples.unfold(1, self.size, self.hop_length)  # [B, T, size]
        frames = emphasised(frames - frames.mean(-1, keepdim=True)) * self.window
        spectrum = torch.fft.rfft(frames.float(), n=self.n_fft)
        power = spectrum.real.square() + spectrum.imag.square()
        return (power @ self.mel.float()).clamp(min=KALDI_LEAST_POWER).log()


def frames_of[Count: (int, torch.Tensor)](samples: Count, hop: int) -> Count:
    """Frames of so many samples."""
    return (samples + hop // 2) // hop


def mirrored(
    samples: torch.Tensor, lengths: torch.Tensor, size: int, hop: int
) -> torch.Tensor:
    """Samples [B, N + …] such that frames of `size` every `hop` are all that there are.

    Args:
        samples: [B, N].
        lengths: [B].
        size: Samples of a frame.
        hop: Samples from frame to frame.
    """
    before = size // 2 - hop // 2
    total = samples.size(1) + size + hop // 2 - hop
    places = torch.arange(total, device=samples.device) - before
    # There and back again, as often as it takes; nobody looks at what has no samples.
    period = 2 * lengths[:, None].clamp(min=1)
    places = places % period
    places = torch.minimum(places, period - 1 - places)
    return samples.gather(1, places)


def emphasised(frames: torch.Tensor) -> torch.Tensor:
    """Frames [..., size], each sample less a part of the one before it in its frame."""
    before = torch.cat((frames[..., :1], frames[..., :-1]), dim=-1)
    return frames - PREEMPHASIS * before
