"""Changes of the training that are only tried: what pays becomes the library's.

    PYTHONPATH=benchmarks espnet-dynsize run -m trials straight_through ...

Applies the change, then runs `espnet2.bin.asr_train` with the other arguments.
"""

import dataclasses
import runpy
import sys
from collections.abc import Callable
from contextlib import contextmanager

import torch

from espnet_dynsize.control.sampler import Sandwich
from espnet_dynsize.encoder.sparse import Masked
from espnet_dynsize.encoder.supernet import Supernet
from espnet_dynsize.train.objectives import Distillation

# Of the divergence of Wang et al. (AlphaNet, arXiv 2102.07954): the larger of both
# signs, with importance ratios of at most this
LARGEST_RATIO = 5.0


def straight_through() -> None:
    """What a mask takes away gets a gradient all the same."""

    def masked(self, mask: torch.Tensor) -> torch.Tensor:
        left = self.weight * mask.to(self.weight)
        return self.weight + (left - self.weight).detach()

    Masked.masked = masked


def scaled_dropout() -> None:
    """A sparse subnet has dropout in proportion to the weights that it keeps."""
    activate = Supernet.activate

    @contextmanager
    def scaled(self, chosen):
        subnet = getattr(chosen, "subnet", chosen)
        shares = [share for _, share in subnet.sparsity]
        kept = 1 - sum(shares) / max(len(shares), 1)
        found = [m for b in self.blocks for m in b.modules()]
        drops = [(m, m.p) for m in found if isinstance(m, torch.nn.Dropout)]
        for module, rate in drops:
            module.p = rate * kept
        try:
            with activate(self, chosen):
                yield
        finally:
            for module, rate in drops:
                module.p = rate

    Supernet.activate = scaled


def alpha_divergence() -> None:
    """The adaptive α-divergence of AlphaNet in place of the KL divergence."""

    def larger(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        (first, loss), (second, other) = (
            _divergence(output, target, alpha) for alpha in (-1, 1)
        )
        return torch.where(first > second, loss, other)

    Distillation.divergence = staticmethod(larger)


def _divergence(output: torch.Tensor, target: torch.Tensor, alpha: int) -> tuple:
    """The divergence [B, T], and what has its gradient."""
    own = output.detach().exp()
    ratio = (target - output.detach()).exp().clamp(max=LARGEST_RATIO)
    if alpha == 1:
        f, rho = ratio * ratio.clamp(min=1e-6).log(), ratio
    else:
        power = ratio.clamp(min=1 / LARGEST_RATIO) ** alpha
        base = 1 / (alpha * (alpha - 1))
        f, rho = power * base - base, power / alpha + base
    return (own * f).sum(dim=-1), -(own * rho * output).sum(dim=-1)


def one_in_each_update() -> None:
    """The dense network, the sparsest, and a random one, each in an update of its own.

    With `sandwich: whole`. There is no teacher then.
    """
    joint = Sandwich._joint

    def one(self, update, generator):
        dense, *sparse = joint(self, update, generator)
        if not sparse or update % 3 == 0:
            return [dense]
        return [dataclasses.replace(sparse[0], weight=1.0)]

    Sandwich._joint = one


TRIALS: dict[str, Callable[[], None]] = {
    "straight_through": straight_through,
    "scaled_dropout": scaled_dropout,
    "alpha_divergence": alpha_divergence,
    "one_in_each_update": one_in_each_update,
}

if __name__ == "__main__":
    TRIALS[sys.argv.pop(1)]()
    runpy.run_module("espnet2.bin.asr_train", run_name="__main__", alter_sys=True)
