"""An attention decoder, token by token, in two parts beside its encoder."""

import math
from types import MappingProxyType

import torch
from espnet2.asr.decoder.transformer_decoder import TransformerDecoder
from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
    MultiHeadedAttention,
)
from espnet2.legacy.nets.pytorch_backend.transformer.decoder_layer import DecoderLayer
from espnet2.legacy.nets.pytorch_backend.transformer.embedding import PositionalEncoding

from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.deploy.twin.encoder import Encoder
from espnet_dynsize.deploy.twin.layers import FeedForward
from espnet_dynsize.deploy.twin.positions import Positions


class AttentionModel(Encoder):
    """The encoder of a model with an attention decoder: frames [B, T', D].

    Args:
        model: ESPnet's, as `load_model` gives it; its modules are used, not changed.
        audio: See `Encoder`.

    Raises:
        ConfigError: a part of it is not for an export.
    """

    kind, gives = "attention", "frames"

    def __init__(self, model: torch.nn.Module, audio: bool):
        decoder = getattr(model, "decoder", None)
        plain = type(decoder) is TransformerDecoder
        name = type(decoder).__name__
        check(plain, "decoder", name, "transformer for --search attention")
        super().__init__(model, audio)
        self.tokens = decoder.output_layer.out_features
        # As ESPnet's are, unless `sym_sos` or `sym_eos` say otherwise
        last = model.sos == model.eos == self.tokens - 1
        check(last, "sym_sos, sym_eos", "…", "both the last token for an export")
        self.parts = {"memory": Memory(decoder), "step": Step(decoder)}

    def head(self, x: torch.Tensor) -> torch.Tensor:
        """See `Encoder`."""
        return x


class Heads(torch.nn.Module):
    """A projection to [H, N, d] of [N, D]."""

    def __init__(self, project: torch.nn.Linear, heads: int):
        super().__init__()
        self.project, self.heads = project, heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        split = self.project(x).view(x.size(0), self.heads, -1)
        return split.transpose(0, 1)


class Memory(torch.nn.Module):
    """Keys and values of all frames, which each step attends to, computed once.

    Args:
        decoder: ESPnet's.

    Attributes:
        inputs, outputs: Names.
        axes: Name → its free dimensions.
    """

    inputs = ["frames"]
    outputs = ["memory"]
    axes = MappingProxyType(dict(frames={0: "frames"}, memory={2: "frames"}))

    def __init__(self, decoder: TransformerDecoder):
        super().__init__()
        attentions = [layer.src_attn for layer in decoder.decoders]
        self.heads = torch.nn.ModuleList(
            Heads(project, attention.h)
            for attention in attentions
            for project in (attention.linear_k, attention.linear_v)
        )
        self.size = attentions[0].linear_k.in_features
        self.eval()

    @property
    def examples(self) -> tuple[torch.Tensor]:
        """Frames [T, D]."""
        return (torch.randn(5, self.size),)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Keys and values in turns [2 · L, H, T, d] of frames [T, D]."""
        return torch.stack([heads(frames) for heads in self.heads])


class Attend(torch.nn.Module):
    """What a token attends to: ESPnet's `MultiHeadedAttention`, of one query.

    Args:
        stock: It.

    Raises:
        ConfigError: it is of another kind.
    """

    def __init__(self, stock: MultiHeadedAttention):
        super().__init__()
        plain = type(stock) is MultiHeadedAttention
        if not plain or not isinstance(stock.q_norm, torch.nn.Identity):
            raise ConfigError(
                "decoder_conf: qk_norm and attention of other kinds are not for an "
                "export."
            )
        self.query = Heads(stock.linear_q, stock.h)
        self.scale, self.out = 1 / math.sqrt(stock.d_k), stock.linear_out

    def forward(
        self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """[1, D] of x [1, D], keys and values [H, N, d]."""
        scores = self.query(x) @ keys.transpose(1, 2) * self.scale  # [H, 1, N]
        heard = torch.softmax(scores, dim=-1) @ values  # [H, 1, d]
        return self.out(heard.transpose(0, 1).flatten(1))


class Layer(torch.nn.Module):
    """A step of ESPnet's `DecoderLayer`.

    Args:
        stock: It.
    """

    def __init__(self, stock: DecoderLayer):
        super().__init__()
        self.norms = torch.nn.ModuleList([stock.norm1, stock.norm2, stock.norm3])
        self.before = stock.normalize_before
        attentions = stock.self_attn, stock.src_attn
        self.attend = torch.nn.ModuleList(map(Attend, attentions))
        own = stock.self_attn
        projections = own.linear_k, own.linear_v
        self.own = torch.nn.ModuleList(Heads(p, own.h) for p in projections)
        self.joined = torch.nn.ModuleList()
        if stock.concat_after:
            self.joined.extend([stock.concat_linear1, stock.concat_linear2])
        self.feed_forward = FeedForward(stock.feed_forward, 1.0)

    def forward(
        self, x: torch.Tensor, cache: torch.Tensor, memory: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x [1, D] and the next cache.

        Args:
            x: [1, D].
            cache: Keys and values of the tokens before, [2, H, N, d].
            memory: Those of the frames, [2, H, T, d].
        """
        y = self.normed(0, x)
        new = torch.stack([heads(y) for heads in self.own])  # [2, H, 1, d]
        cache = torch.cat((cache, new), dim=2)
        x = self.added(0, x, y, self.attend[0](y, cache[0], cache[1]))
        y = self.normed(1, x)
        x = self.added(1, x, y, self.attend[1](y, memory[0], memory[1]))
        y = self.normed(2, x)
        x = x + self.feed_forward(y, None)
        return x if self.before else self.norms[2](x), cache

    def normed(self, number: int, x: torch.Tensor) -> torch.Tensor:
        """What a branch is given."""
        return self.norms[number](x) if self.before else x

    def added(
        self, number: int, x: torch.Tensor, y: torch.Tensor, heard: torch.Tensor
    ) -> torch.Tensor:
        """x and what a branch has heard."""
        if len(self.joined):
            heard = self.joined[number](torch.cat((y, heard), dim=-1))
        x = x + heard
        return x if self.before else self.norms[number](x)


class Step(torch.nn.Module):
    """Log-probabilities of the next token.

    Args:
        decoder: ESPnet's.

    Attributes:
        inputs, outputs: Names.
        axes: Name → its free dimensions.

    Raises:
        ConfigError: it is not for an export.
    """

    inputs = ["token", "cache", "memory"]
    outputs = ["log_probabilities", "next_cache"]
    axes = MappingProxyType(
        dict(cache={2: "said"}, memory={2: "frames"}, next_cache={2: "saying"})
    )

    def __init__(self, decoder: TransformerDecoder):
        super().__init__()
        embedding, positions = decoder.embed[0], decoder.embed[-1]
        plain = isinstance(embedding, torch.nn.Embedding)
        plain &= type(positions) is PositionalEncoding
        check(plain, "decoder_conf: input_layer", "linear", "embed for an export")
        self.embed, self.positions = embedding, Positions(positions)
        self.layers = torch.nn.ModuleList(map(Layer, decoder.decoders))
        self.after = decoder.after_norm if decoder.normalize_before else None
        self.output = decoder.output_layer
        attention = decoder.decoders[0].self_attn
        self.shape = 2 * len(self.layers), attention.h, 0, attention.d_k
        self.eval()

    @property
    def examples(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A token, and keys and values of three before and of five frames."""
        layers, heads, _, size = self.shape
        caches = [torch.randn(layers, heads, number, size) for number in (3, 5)]
        return torch.tensor([1]), *caches

    def forward(
        self, token: torch.Tensor, cache: torch.Tensor, memory: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """[1, V] and the next cache [2 · L, H, N + 1, d].

        Args:
            token: The last one, [1]; <sos/eos> at the beginning.
            cache: See `Layer`, of all layers, [2 · L, H, N, d].
            memory: [2 · L, H, T, d].
        """
        x = self.embed(token) * self.positions.scale
        x = x + self.positions.at(cache.size(2))
        following = []
        for i, layer in enumerate(self.layers):
            own = slice(2 * i, 2 * i + 2)
            x, grown = layer(x, cache[own], memory[own])
            following.append(grown)
        x = x if self.after is None else self.after(x)
        return torch.log_softmax(self.output(x), dim=-1), torch.cat(following)
