"""A transducer in three parts, of which each computes nothing twice."""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from espnet2.asr.decoder.transducer_decoder import TransducerDecoder
from espnet2.asr_transducer.joint_network import JointNetwork

from espnet_dynsize.core.errors import check
from espnet_dynsize.deploy.twin.encoder import Encoder


class Transducer(Encoder):
    """The encoder, with the joint network's projection of its frames, [B, T', J].

    Args:
        model: ESPnet's, as `load_model` gives it; its modules are used, not changed.
        audio: See `Encoder`.

    Raises:
        ConfigError: a part of it is not for an export.
    """

    kind, gives = "transducer", "frames"

    def __init__(self, model: torch.nn.Module, audio: bool):
        check(
            not getattr(model, "transducer_multi_blank_durations", None),
            "model_conf: transducer_multi_blank_durations",
            "…",
            "left out for an export",
        )
        super().__init__(model, audio)
        self.project = model.joint_network.lin_enc
        self.tokens = model.joint_network.lin_out.out_features
        self.parts = {
            "prediction": Prediction(model.decoder, model.joint_network),
            "joint": Joint(model.joint_network),
        }

    def head(self, x: torch.Tensor) -> torch.Tensor:
        """See `Encoder`."""
        return self.project(x)


class Prediction(torch.nn.Module):
    """A step of ESPnet's `TransducerDecoder`, with the joint network's projection.

    Args:
        decoder: It.
        joint: The joint network.

    Attributes:
        inputs, outputs: Names.
        axes: Name → its free dimensions.
    """

    inputs = ["token", "state"]
    outputs = ["said", "next_state"]
    axes: Mapping[str, dict] = MappingProxyType({})

    def __init__(self, decoder: TransducerDecoder, joint: JointNetwork):
        super().__init__()
        self.embed, self.layers = decoder.embed, decoder.decoder
        self.project, self.lstm = joint.lin_dec, decoder.dtype == "lstm"
        self.size = decoder.dunits
        self.eval()

    @property
    def examples(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A token, and the state in which a sequence begins, [L, B, S]."""
        size = self.size * (2 if self.lstm else 1)
        return torch.tensor([1]), torch.zeros(len(self.layers), 1, size)

    def forward(
        self, token: torch.Tensor, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What has been said, [B, J], and the next state [L, B, S].

        Args:
            token: The last one, [B]; blank at the beginning.
            state: [L, B, S]; of an LSTM, hidden and cell states together.
        """
        x, following = self.embed(token)[:, None], []  # [B, 1, H]
        for layer, own in zip(self.layers, state.split(1)):
            if self.lstm:
                hidden, cell = own.chunk(2, dim=-1)
                x, both = layer(x, (hidden.contiguous(), cell.contiguous()))
                following.append(torch.cat(both, dim=-1))
            else:
                x, own = layer(x, own)
                following.append(own)
        return self.project(x[:, 0]), torch.cat(following)


class Joint(torch.nn.Module):
    """What ESPnet's `JointNetwork` makes of projected frames and of what was said.

    Args:
        stock: It.

    Attributes:
        inputs, outputs: Names.
        axes: Name → its free dimensions.
    """

    inputs = ["frames", "said"]
    outputs = ["log_probabilities"]
    axes = MappingProxyType(dict(frames={0: "n"}, log_probabilities={0: "n"}))

    def __init__(self, stock: JointNetwork):
        super().__init__()
        self.activation, self.out = stock.joint_activation, stock.lin_out
        self.eval()

    @property
    def examples(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Projected frames [N, J], and one of what was said, [1, J]."""
        return torch.randn(3, self.out.in_features), torch.randn(
            1, self.out.in_features
        )

    def forward(self, frames: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of tokens [N, V] of frames [N, J], after `said` [1, J]."""
        return torch.log_softmax(self.out(self.activation(frames + said)), dim=-1)
