"""ESPnet's transducer models without the package that ESPnet takes the loss from.

ESPnet imports `warprnnt_pytorch`, which has no wheel; torchaudio has the same loss.
"""

import importlib.util
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Literal

import torch
from torchaudio.functional import rnnt_loss

PACKAGE = "warprnnt_pytorch"
_LOCK = threading.RLock()


class RNNTLoss(torch.nn.Module):
    """RNN-T loss (arXiv 1211.3711) with the interface of `warprnnt_pytorch.RNNTLoss`.

    Args:
        blank: Index of the blank token.
        fastemit_lambda: FastEmit (arXiv 2010.11148, section 3.3): the gradients of all
            probabilities to emit a label are 1 + λ times those of the loss.
        reduction: Only `mean`.
    """

    def __init__(
        self,
        blank: int = 0,
        fastemit_lambda: float = 0.0,
        reduction: Literal["mean"] = "mean",
    ):
        super().__init__()
        self.blank = blank
        self.fastemit_lambda = fastemit_lambda

    def forward(
        self,
        acts: torch.Tensor,
        labels: torch.Tensor,
        act_lens: torch.Tensor,
        label_lens: torch.Tensor,
    ) -> torch.Tensor:
        """Mean over the batch of the negative log likelihoods.

        Args:
            acts: Logits [B, T, U + 1, V].
            labels: int32 [B, U].
            act_lens: int32 [B].
            label_lens: int32 [B].
        """
        # ESPnet's lengths leave the last frames out where the joint output is padded.
        # Torchaudio refuses frames beyond the longest length, bfloat16 and strides; the
        # softmax is part of its loss.
        acts = acts[:, : int(act_lens.max())].float().contiguous()
        fused = self.fastemit_lambda == 0
        if not fused:
            acts = self._favour(acts.log_softmax(dim=-1), labels, label_lens)
        return rnnt_loss(
            acts,
            labels,
            act_lens,
            label_lens,
            blank=self.blank,
            fused_log_softmax=fused,
        )

    def _favour(
        self, log_probs: torch.Tensor, labels: torch.Tensor, label_lens: torch.Tensor
    ) -> torch.Tensor:
        """The same values, with other gradients where a label is emitted.

        Args:
            log_probs: [B, T, U + 1, V].
            labels: [B, U].
            label_lens: [B].
        """
        index = labels.long()[:, None, :, None].expand(-1, log_probs.size(1), -1, -1)
        emitted = log_probs[:, :, :-1].gather(-1, index)
        # Behind a text's end are blanks.
        places = torch.arange(labels.size(1), device=labels.device)
        counted = (places < label_lens[:, None])[:, None, :, None]
        more = self.fastemit_lambda * counted * (emitted - emitted.detach())  # is 0
        place = torch.nn.functional.pad(index, (0, 0, 0, 1))
        more = torch.nn.functional.pad(more, (0, 0, 0, 1))
        return log_probs.scatter_add(-1, place, more)


@contextmanager
def rnnt_loss_available() -> Iterator[None]:
    """Let `from warprnnt_pytorch import RNNTLoss` succeed inside the `with` block.

    The real package is used where it is installed. Threads wait for each other.
    """
    with _LOCK:
        # In this order: `find_spec` fails on a module without spec, as that below is.
        if PACKAGE in sys.modules or importlib.util.find_spec(PACKAGE) is not None:
            yield
            return
        module = ModuleType(PACKAGE)
        module.RNNTLoss = RNNTLoss
        # Nobody else may find it there later and take it for the real package.
        sys.modules[PACKAGE] = module
        try:
            yield
        finally:
            del sys.modules[PACKAGE]
