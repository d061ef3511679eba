"""What each unit of an encoder costs."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from espnet_dynsize.subnet import Subnet

# Attention costs more per frame in longer audio; ten seconds of 10 ms frames.
FRAMES = 1000


def unit_params(encoder, input_size: int) -> tuple[list[float], float]:
    """Parameters of each unit of a supernet, and of all that cannot be dropped.

    A layer's norm and shared biases are divided among its units.
    """
    costs = [0.0] * encoder.num_units
    for block in encoder.blocks:
        for layer in block.layers:
            modules = layer.modules(block).values()
            own = sum(p.numel() for m in modules for p in m.parameters())
            for unit in layer.units:
                costs[unit] = own / len(layer.units)
    encoder_only = [
        p for name, p in encoder.named_parameters() if not name.startswith("schedule.")
    ]
    return costs, sum(p.numel() for p in encoder_only) - sum(costs)


@torch.no_grad()
def unit_flops(encoder, input_size: int) -> tuple[list[float], float]:
    """FLOPs of each unit over `FRAMES` input frames, and of all that stays.

    2 per multiply-add, in matrix products and convolutions.
    """
    training = encoder.training
    encoder.eval()
    costs = [0.0] * encoder.num_units
    with encoder.shared_front_end():
        fixed = _flops(encoder, input_size, set())
        without_front_end = _flops(encoder, input_size, set())
        for layer in encoder.layers:
            own = _flops(encoder, input_size, set(layer.units)) - without_front_end
            for unit in layer.units:
                costs[unit] = own / len(layer.units)
    encoder.train(training)
    return costs, fixed


def _flops(encoder, input_size: int, units: set[int]) -> float:
    mask = tuple(unit in units for unit in range(encoder.num_units))
    x = torch.zeros(1, FRAMES, input_size)
    with (
        encoder.activate(Subnet(len(units), mask)),
        FlopCounterMode(display=False) as counter,
    ):
        encoder(x, torch.tensor([FRAMES]))
    return float(counter.get_total_flops())
