"""From samples to normalised features, in operations that an export knows."""

import torch
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.layers.global_mvn import GlobalMVN
from espnet2.layers.utterance_mvn import UtteranceMVN

from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.runtime import LEAST_POWER


class LogMel(torch.nn.Module):
    """ESPnet's `DefaultFrontend` of one channel; its transform is a convolution.

    An utterance is mirrored at its own end, wherever the batch's is: in ESPnet, the
    last frames of what is padded hear zeros.

    Args:
        stock: The front-end.

    Attributes:
        window: [n_fft].
        mel: [n_fft // 2 + 1, D].

    Raises:
        ConfigError: it does more than features.
    """

    def __init__(self, stock: DefaultFrontend):
        super().__init__()
        _check_plain(stock)
        stft = stock.stft
        self.size, self.hop = stft.n_fft, stft.hop_length
        self.center = stft.center
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
        bins = self.size // 2 + 1
        # Of float64: of large angles, float32 has few digits left.
        angles = torch.arange(bins)[:, None] * torch.arange(self.size) % self.size
        angles = angles.double() * (2 * torch.pi / self.size)
        waves = torch.cat([torch.cos(angles), torch.sin(angles)]) * window.double()
        self.register_buffer("waves", waves.float()[:, None])  # [2 · bins, 1, n_fft]

    def forward(
        self, samples: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, T, D] and lengths [B] of samples [B, N]."""
        if self.center:
            samples = self.mirrored(samples, lengths)
            lengths = lengths + self.size // 2 * 2
        parts = torch.nn.functional.conv1d(samples[:, None], self.waves, None, self.hop)
        real, imaginary = parts.chunk(2, dim=1)  # [B, bins, T]
        power = (real * real + imaginary * imaginary).transpose(1, 2)
        features = (power @ self.mel).clamp(min=LEAST_POWER).log()
        return features, (lengths - self.size) // self.hop + 1

    def mirrored(self, samples: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """[B, N + n_fft], half of it before the first sample."""
        half = self.size // 2
        places = torch.arange(-half, samples.size(1) + half).abs()
        last = lengths[:, None] - 1
        places = (last - (last - places).abs()).clamp(min=0)
        return samples.gather(1, places)


def _check_plain(stock: torch.nn.Module) -> None:
    plain = type(stock) is DefaultFrontend
    check(plain, "frontend", type(stock).__name__, "default for an export")
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
