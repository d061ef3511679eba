"""An encoder: its blocks become a list of the layers that they keep."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import torch
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder

from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.deploy.twin.attention import Frames, twin_attention
from espnet_dynsize.deploy.twin.features import Normalise, check_features, twin_features
from espnet_dynsize.deploy.twin.layers import Convolution, FeedForward, MergedBranch
from espnet_dynsize.deploy.twin.subsampling import twin_front_end
from espnet_dynsize.encoder.conformer import ConformerBlock
from espnet_dynsize.encoder.e_branchformer import EBranchformerBlock
from espnet_dynsize.encoder.kinds import has_layer
from espnet_dynsize.encoder.layers import Block
from espnet_dynsize.encoder.transformer import TransformerBlock

# Stock encoder → this plugin's class of its blocks, which knows their layers' order
_BLOCKS = {
    ConformerEncoder: ConformerBlock,
    EBranchformerEncoder: EBranchformerBlock,
    TransformerEncoder: TransformerBlock,
}
# Softmax gives padding nothing.
_NEVER = -1e9


class Layer(torch.nn.Module):
    """`x + f(norm(x))`, or with ESPnet's `normalize_before: false` `norm(x + f(x))`.

    Args:
        norm: None where f has norms of its own.
        f: None where a norm after the layer is all that is left of it.
        before: See above.
        joined: With `concat_after`, what makes [B, T, D] of norm(x) and f together.
    """

    def __init__(
        self,
        norm: torch.nn.Module | None,
        f: torch.nn.Module | None,
        before: bool,
        joined: torch.nn.Module | None = None,
    ):
        super().__init__()
        self.norm, self.f, self.before, self.joined = norm, f, before, joined

    def forward(self, x: torch.Tensor, frames: Frames) -> torch.Tensor:
        if self.f is not None:
            normed = self.norm(x) if self.before and self.norm is not None else x
            y = self.f(normed, frames)
            if self.joined is not None:
                y = self.joined(torch.cat((normed, y), dim=-1))
            x = x + y
        return x if self.before else self.norm(x)


class Encoder(torch.nn.Module):
    """A model's encoder and what its frames become, in evaluation mode.

    Args:
        model: ESPnet's, as `load_model` gives it; its modules are used, not changed.
        audio: It takes samples; else the features that its front-end makes.

    Attributes:
        kind: As `runtime` knows it.
        gives: What its frames become, as an output's name.
        logmel: None without `audio`.
        tokens: How many there are.
        parts: Name → what else a search needs.

    Raises:
        ConfigError: a part of it is not for an export.
    """

    kind: str
    gives: str
    tokens: int
    parts: Mapping[str, torch.nn.Module] = MappingProxyType({})

    def __init__(self, model: torch.nn.Module, audio: bool):
        super().__init__()
        check_features(model)
        encoder = model.encoder
        if getattr(encoder, "interctc_use_conditioning", False):
            raise ConfigError("interctc_use_conditioning must be false for an export.")
        if getattr(encoder, "ctc_trim", False):
            raise ConfigError("encoder_conf: ctc_trim must be false for an export.")
        order = _order(encoder)
        self.logmel = twin_features(model.frontend) if audio else None
        self.normalise = Normalise(model.normalize)
        self.embed, self.positions = twin_front_end(encoder.embed)
        self.layers = torch.nn.ModuleList(_layers(encoder, order))
        after = getattr(encoder, "after_norm", None)
        self.after = after if getattr(encoder, "normalize_before", True) else None
        self.eval()

    def forward(
        self, x: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Frames [B, T', …], see `head`, and lengths [B].

        Args:
            x: Samples [B, N] or features [B, T, D].
            lengths: [B].
        """
        if self.logmel is not None:
            x, lengths = self.logmel(x, lengths)
        x, lengths = self.embed(self.normalise(x, lengths), lengths)
        valid = torch.arange(x.size(1)) < lengths[:, None]  # [B, T']
        valid = valid.to(x)
        x, positions = self.positions(x)
        bias = ((1 - valid) * _NEVER)[:, None, None]
        frames = Frames(valid[..., None], bias, positions)
        for layer in self.layers:
            x = layer(x, frames)
        if self.after is not None:
            x = self.after(x)
        return self.head(x), lengths

    def head(self, x: torch.Tensor) -> torch.Tensor:
        """What frames [B, T', D] become."""
        raise NotImplementedError


class CTC(Encoder):
    """Log-probabilities of a model's CTC output, [B, T', V].

    Args:
        model: See `Encoder`.
        audio: See `Encoder`.

    Raises:
        ConfigError: a part of it is not for an export.
    """

    kind, gives = "ctc", "log_probabilities"

    def __init__(self, model: torch.nn.Module, audio: bool):
        if getattr(model, "ctc", None) is None:
            raise ConfigError("ctc_weight must be above 0: an export is of CTC.")
        super().__init__(model, audio)
        self.output = model.ctc.ctc_lo
        self.tokens = self.output.out_features

    def head(self, x: torch.Tensor) -> torch.Tensor:
        """See `Encoder`."""
        return torch.log_softmax(self.output(x), dim=-1)


def _order(encoder: torch.nn.Module) -> type[Block]:
    """The class that knows the layers of an encoder's blocks."""
    for kind, made in _BLOCKS.items():
        if isinstance(encoder, kind):
            return made
    allowed = "a conformer, e_branchformer or transformer for an export"
    check(False, "encoder", type(encoder).__name__, allowed)


def _layers(encoder: torch.nn.Module, order: type[Block]) -> Iterator[Layer]:
    """All layers that an encoder keeps, in the order in which they compute."""
    for block in encoder.encoders:
        own = type(block) if isinstance(block, Block) else order
        for name, norm in own.norms.items():
            yield from _layer(block, name, norm)
        final = getattr(block, "norm_final", None)
        if final is not None:
            yield Layer(final, None, False)


def _layer(block: torch.nn.Module, kind: str, norm: str | None) -> Iterator[Layer]:
    before = getattr(block, "normalize_before", True)
    normed = None if norm is None else getattr(block, norm, None)
    if not has_layer(block, kind):
        if not before and normed is not None:
            yield Layer(normed, None, False)
        return
    concat = kind == "self_attn" and getattr(block, "concat_after", False)
    joined = block.concat_linear if concat else None
    yield Layer(normed, _MAKERS[kind](block), before, joined)


_MAKERS: dict[str, Callable[[torch.nn.Module], torch.nn.Module]] = {
    "feed_forward_macaron": lambda b: FeedForward(b.feed_forward_macaron, _scale(b)),
    "self_attn": lambda b: twin_attention(b.self_attn),
    "conv_module": lambda b: Convolution(b.conv_module),
    "feed_forward": lambda b: FeedForward(b.feed_forward, _scale(b)),
    "merged_branch": MergedBranch,
}


def _scale(block: torch.nn.Module) -> float:
    return getattr(block, "ff_scale", 1.0)
