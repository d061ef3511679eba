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
    encoder.eval()
    units = [0.0] * encoder.num_units
    with encoder.switch.remember():  # the front-end is counted in the first pass only
        fixed = _count(encoder, ())
        without_front_end = _count(encoder, ())
        for layer in encoder.layers:
            # Alone in the network: costs add up, whatever else is kept.
            in_layer = _count(encoder, layer.units) - without_front_end
            for unit in layer.units:
                units[unit] = in_layer / len(layer.units)
    encoder.train(training)
    return CostModel(tuple(units), fixed)


def _count(encoder: Supernet, units: Sequence[int]) -> float:
    device = next(encoder.parameters()).device
    x = torch.zeros(1, FRAMES, encoder.input_size, device=device)
    with (
        encoder.activate(Subnet.of(units, encoder.num_units)),
        count_flops() as counter,
    ):
        encoder(x, torch.tensor([FRAMES], device=device))
    return float(counter.get_total_flops())


@contextmanager
def count_flops() -> Iterator[FlopCounterMode]:
    """A `FlopCounterMode` that sees attention of every kind.

    The counter does not know the fused attention of CPUs (`use_sdpa`); computed as
    matrix products, its FLOPs are the same and are counted.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter
