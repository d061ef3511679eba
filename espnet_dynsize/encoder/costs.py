"""What each unit of an encoder costs, measured on the encoder itself."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from espnet_dynsize.core.cost import CostModel
from espnet_dynsize.core.subnet import Subnet
from espnet_dynsize.encoder.supernet import Supernet

# Attention costs more per frame in longer audio; ten seconds of 10 ms frames.
FRAMES = 1000


def parameters(encoder: Supernet) -> CostModel:
    """Parameters of each unit, and of all that cannot be dropped.

    A layer's norm and shared biases are divided among its units.
    """
    units = [0.0] * encoder.num_units
    for block in encoder.blocks:
        for layer in block.layers:
            modules = layer.modules(block).values()
            in_layer = sum(p.numel() for m in modules for p in m.parameters())
            for unit in layer.units:
                units[unit] = in_layer / len(layer.units)
    total = sum(p.numel() for p in encoder.parameters())
    return CostModel(tuple(units), total - sum(units))


@torch.no_grad()
def flops(encoder: Supernet) -> CostModel:
    """FLOPs of each unit over `FRAMES` input frames, and of all that stays.

    2 per multiply-add, in matrix products and convolutions.
    """
    training = encoder.training
    # Counting must not change the run: in evaluation mode batch norms keep their
    # statistics, but some encoders draw the size of chunks there.
    encoder.eval()
    units = [0.0] * encoder.num_units
    try:
        # The front-end is counted in the first pass only.
        with torch.random.fork_rng(devices=[]), encoder.switch.remember():
            fixed = _count(encoder, ())
            without_front_end = _count(encoder, ())
            for layer in encoder.layers:
                # Alone in the network: costs add up, whatever else is kept.
                in_layer = _count(encoder, layer.units) - without_front_end
                for unit in layer.units:
                    units[unit] = in_layer / len(layer.units)
    finally:
        encoder.train(training)
    return CostModel(tuple(units), fixed)


def _count(encoder: Supernet, units: Sequence[int]) -> float:
    device = next(encoder.parameters()).device
    x = torch.zeros(1, FRAMES, encoder.input_size, device=device)
    with (
        encoder.activate(Subnet.of(units, encoder.num_units)),
        count_flops() as counter,
    ):
        conditioned = getattr(encoder, "interctc_use_conditioning", False)
        # Then, the encoder asks for posteriors.
        others = {"ctc": _NoPosteriors(encoder)} if conditioned else {}
        encoder(x, torch.tensor([FRAMES], device=device), **others)
    return float(counter.get_total_flops())


class _NoPosteriors:
    """Stands in for the CTC output, which is no part of the encoder."""

    def __init__(self, encoder: Supernet):
        self.encoder = encoder

    def softmax(self, x: torch.Tensor) -> torch.Tensor:
        """Zeros [B, T, V] for x [B, T, D]."""
        return x.new_zeros(*x.shape[:-1], self.encoder.conditioning_layer.in_features)


@contextmanager
def count_flops() -> Iterator[FlopCounterMode]:
    """A `FlopCounterMode` that sees attention of every kind.

    The counter does not know the fused attention of CPUs (`use_sdpa`); computed as
    matrix products, its FLOPs are the same and are counted.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter
