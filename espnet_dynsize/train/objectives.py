"""What one sampled subnet adds to the loss of a step."""

import functools
from typing import NamedTuple, Protocol

import torch
from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_dynsize.core.subnet import Sampled

Stats = dict[str, torch.Tensor]


class Encoded(NamedTuple):
    """A batch after the encoder.

    Args:
        out: [B, T, D], or a tuple of it and intermediate outputs, as ESPnet has them.
        lengths: [B].
    """

    out: torch.Tensor | tuple
    lengths: torch.Tensor

    @property
    def last(self) -> torch.Tensor:
        """The last layer's output [B, T, D]."""
        return self.out[0] if isinstance(self.out, tuple) else self.out


class Teacher:
    """The largest subnet of a step, from whose outputs the others learn."""

    def __init__(self, model: ESPnetASRModel, encoded: Encoded):
        self._model, self._encoded = model, encoded

    @functools.cached_property
    def log_probs(self) -> torch.Tensor:
        """Its CTC output [B, T, V], without gradient; computed once for all others."""
        with torch.no_grad():
            return self._model.ctc.log_softmax(self._encoded.last)

    @functools.cached_property
    def emitted(self) -> torch.Tensor:
        """How many tokens [B] its greedy CTC output has, repetitions merged."""
        best = self.log_probs.argmax(dim=-1)  # [B, T]
        token = (best != self._model.blank_id) & _valid(self._encoded.lengths, best)
        token[:, 1:] &= best[:, 1:] != best[:, :-1]
        return token.sum(dim=-1)


class Objective(Protocol):
    """A part of a sampled subnet's loss; called while that subnet is active."""

    def __call__(
        self,
        model: ESPnetASRModel,
        sampled: Sampled,
        encoded: Encoded,
        batch: dict,
        teacher: Teacher | None,
    ) -> tuple[torch.Tensor | float, Stats]:
        """Loss (a scalar, before the subnet's weight) and statistics.

        Args:
            model: The model with the joint loss.
            sampled: What computes.
            encoded: Its encoder output.
            batch: Arguments of ESPnet's `forward`.
            teacher: The step's largest subnet; None for that one itself.
        """


def stock_loss(
    model: ESPnetASRModel,
    sampled: Sampled,
    encoded: Encoded,
    batch: dict,
    teacher: Teacher | None,
) -> tuple[torch.Tensor, Stats]:
    """ESPnet's own loss: CTC, attention, transducer, intermediate CTC."""
    return model.stock_loss(encoded, batch)


class Distillation:
    """KL divergence of the CTC output from the teacher's, times a weight.

    It is summed over frames and averaged over sequences, as ESPnet's CTC loss is. A
    sequence for which the teacher emits fewer than `EMITTED` of the text's tokens adds
    nothing: CTC predicts blanks alone at first, and from that a subnet learns only to
    stay there.

    Args:
        weight: Weight in the subnet's loss.
    """

    EMITTED = 0.5

    def __init__(self, weight: float):
        self.weight = weight

    def __call__(
        self,
        model: ESPnetASRModel,
        sampled: Sampled,
        encoded: Encoded,
        batch: dict,
        teacher: Teacher | None,
    ):
        if teacher is None:
            return 0.0, {}
        target = teacher.log_probs  # [B, T, V]
        # Without the dropout that ESPnet's CTC loss may have before its output layer.
        output = model.ctc.log_softmax(encoded.last)
        frames = self.divergence(output, target)  # [B, T]
        speaks = teacher.emitted >= self.EMITTED * batch["text_lengths"]  # [B]
        counted = _valid(encoded.lengths, frames) & speaks[:, None]  # [B, T]
        distance = (frames * counted).sum() / frames.size(0)
        return self.weight * distance, {"loss_distill": distance.detach()}

    @staticmethod
    def divergence(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Of every frame [B, T], from log probabilities [B, T, V]."""
        # Σ_v p_teacher · (log p_teacher - log p_subnet): torch has the target second.
        divergence = torch.nn.functional.kl_div(
            output, target, reduction="none", log_target=True
        )
        return divergence.sum(dim=-1)


def _valid(lengths: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Which frames [B, T] are no padding."""
    positions = torch.arange(frames.size(1), device=lengths.device)
    return positions < lengths[:, None]
