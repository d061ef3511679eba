"""From samples to normalised features, in operations that an export knows."""

import torch
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.layers.global_mvn import GlobalMVN
from espnet2.layers.utterance_mvn import UtteranceMVN

from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.encoder import kaldi
from espnet_dynsize.encoder.front_end import stft_samples
from espnet_dynsize.runtime import KALDI_LEAST_POWER, LEAST_POWER, packed


class LogMel(torch.nn.Module):
    """Log-mel features of one channel; their transform is a convolution.

    Attributes:
        kind: As `runtime.Features` knows it.
        size, hop: Samples of a frame, and from one to the next.
        least: The power below which nothing is heard.
        window: [size].
        mel: [n_fft // 2 + 1, D].
        waves: [2 · (n_fft // 2 + 1), 1, size], by which frames are multiplied.
    """

    kind: str
    least: float

    def __init__(self, size: int, hop: int):
        super().__init__()
        self.size, self.hop = size, hop

    def forward(
        self, samples: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, T, D] and lengths [B] of samples [B, N]."""
        samples, frames = self.framed(samples, lengths)
        parts = torch.nn.functional.conv1d(samples[:, None], self.waves, None, self.hop)
        real, imaginary = parts.chunk(2, dim=1)  # [B, bins, T]
        power = (real * real + imaginary * imaginary).transpose(1, 2)
        return (power @ self.mel).clamp(min=self.least).log(), frames

    def framed(
        self, samples: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples with what is heard before and after them, and frames [B]."""
        raise NotImplementedError

    def least_samples(self, frames: int) -> int:
        """The shortest audio of which there are so many frames."""
        raise NotImplementedError

    @property
    def about(self) -> dict:
        """What `runtime.Features` needs."""
        told = dict(kind=self.kind, hop=self.hop, window=packed(self.window.numpy()))
        return told | dict(mel=packed(self.mel.numpy()))


class DefaultLogMel(LogMel):
    """ESPnet's `DefaultFrontend`.

    An utterance is mirrored at its own end, wherever the batch's is: in ESPnet, the
    last frames of what is padded hear zeros.

    Args:
        stock: The front-end.

    Raises:
        ConfigError: it does more than features.
    """

    least = LEAST_POWER

    def __init__(self, stock: DefaultFrontend):
        super().__init__(stock.stft.n_fft, stock.stft.hop_length)
        self.stft = stft = stock.stft
        self.center = stft.center
        self.kind = "centered" if self.center else "whole"
        window = torch.ones(stft.win_length)
        if stft.window is not None:
            window = getattr(torch, f"{stft.window}_window")(stft.win_length)
        left = (self.size - stft.win_length) // 2
        right = self.size - stft.win_length - left
        window = torch.nn.functional.pad(window, (left, right))
        if stft.normalized:
            window = window / self.size**0.5
        self.register_buffer("window", window)
        self.register_buffer("mel", stock.logmel.melmat)
        waves = _waves(self.size, self.size) * window.double()
        self.register_buffer("waves", waves.float()[:, None])

    def framed(self, samples, lengths):
        """See `LogMel`."""
        if self.center:
            samples = self.mirrored(samples, lengths)
            lengths = lengths + self.size // 2 * 2
        return samples, (lengths - self.size) // self.hop + 1

    def mirrored(self, samples: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """[B, N + n_fft], half of it before the first sample."""
        half = self.size // 2
        places = torch.arange(-half, samples.size(1) + half).abs()
        last = lengths[:, None] - 1
        places = (last - (last - places).abs()).clamp(min=0)
        return samples.gather(1, places)

    def least_samples(self, frames):
        """See `LogMel`."""
        return stft_samples(self.stft, frames)


class KaldiLogMel(LogMel):
    """This plugin's `KaldiFrontend`.

    Args:
        stock: The front-end.
    """

    kind, least = "kaldi", KALDI_LEAST_POWER

    def __init__(self, stock: kaldi.KaldiFrontend):
        super().__init__(stock.size, stock.hop_length)
        self.least_samples = stock.least_samples
        self.register_buffer("window", stock.window)
        self.register_buffer("mel", stock.mel)
        # All that is done to a frame is linear: as what is done to frames of one sample
        each = torch.eye(self.size, dtype=torch.float64)
        done = kaldi.emphasised(each - 1 / self.size) * stock.window.double()
        waves = _waves(stock.n_fft, self.size) @ done.T
        self.register_buffer("waves", waves.float()[:, None])

    def framed(self, samples, lengths):
        """See `LogMel`."""
        samples = kaldi.mirrored(samples, lengths, self.size, self.hop)
        return samples, kaldi.frames_of(lengths, self.hop)


def twin_features(stock: torch.nn.Module) -> LogMel:
    """The twin of a front-end.

    Raises:
        ConfigError: of another kind.
    """
    if type(stock) is kaldi.KaldiFrontend:
        return KaldiLogMel(stock)
    _check_plain(stock)
    return DefaultLogMel(stock)


def _waves(n_fft: int, size: int) -> torch.Tensor:
    """Cosines and sines [2 · (n_fft // 2 + 1), size] of a Fourier transform."""
    bins = n_fft // 2 + 1
    # Of float64: of large angles, float32 has few digits left.
    angles = torch.arange(bins)[:, None] * torch.arange(size) % n_fft
    angles = angles.double() * (2 * torch.pi / n_fft)
    return torch.cat([torch.cos(angles), torch.sin(angles)])


def _check_plain(stock: torch.nn.Module) -> None:
    plain, name = type(stock) is DefaultFrontend, type(stock).__name__
    check(plain, "frontend", name, "default or kaldi for an export")
    stft = stock.stft is not None
    check(stft, "frontend_conf: apply_stft", False, "true for an export")
    check(stock.stft.onesided, "frontend_conf: onesided", False, "true for an export")
    inner = stock.frontend
    extra = inner is not None and (inner.use_wpe or inner.use_beamformer)
    allowed = "without use_wpe and use_beamformer for an export"
    check(not extra, "frontend_conf: frontend_conf", "…", allowed)


class Normalise(torch.nn.Module):
    """ESPnet's `GlobalMVN` or `UtteranceMVN`.

    Args:
        stock: One of them, or None.

    Raises:
        ConfigError: another one.
    """

    def __init__(self, stock: torch.nn.Module | None):
        super().__init__()
        good = stock is None or type(stock) in (GlobalMVN, UtteranceMVN)
        allowed = "global_mvn, utterance_mvn or null for an export"
        check(good, "normalize", type(stock).__name__, allowed)
        self.utterance = type(stock) is UtteranceMVN
        self.eps = getattr(stock, "eps", 0.0)
        self.means = stock is not None and stock.norm_means
        self.variances = stock is not None and stock.norm_vars
        if type(stock) is GlobalMVN:
            self.register_buffer("mean", stock.mean.float())
            self.register_buffer("factor", (1 / stock.std).float())

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """[B, T, D] of features [B, T, D]."""
        if self.utterance:
            return self._of_utterance(features, lengths)
        if self.means:
            features = features - self.mean
        return features * self.factor if self.variances else features

    def _of_utterance(
        self, features: torch.Tensor, lengths: torch.Tensor
    ) -> torch.Tensor:
        valid = torch.arange(features.size(1)) < lengths[:, None]
        valid = valid[..., None].to(features)
        count = lengths[:, None, None].to(features).clamp(min=1)
        centred = (features - (features * valid).sum(1, keepdim=True) / count) * valid
        # Long sums lose digits: what is left of the mean is little.
        centred = (centred - centred.sum(1, keepdim=True) / count) * valid
        if not self.variances:
            return centred if self.means else features
        variance = (centred * centred).sum(1, keepdim=True) / count
        return (centred if self.means else features) / variance.sqrt().clamp(self.eps)


def check_features(model: torch.nn.Module) -> None:
    """Refuse a model between whose features and encoder there is something else.

    Raises:
        ConfigError: there is.
    """
    for part in ("preencoder", "postencoder"):
        if getattr(model, part, None) is not None:
            raise ConfigError(f"{part} must be null for an export.")
