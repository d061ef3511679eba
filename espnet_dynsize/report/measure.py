"""What one model costs: parameters, FLOPs, time."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from torch.utils.flop_counter import FlopCounterMode

from espnet_dynsize.deploy.experiment import sampling_rate

SECONDS = 10.0
FEATURES_PER_SECOND = 100
REPEATS = 15


def count_parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def recogniser(model: ESPnetASRModel, config: dict) -> Callable[[], torch.Tensor]:
    """A function that encodes `SECONDS` of noise, up to the CTC output."""
    speech = _noise(model, config)
    lengths = torch.tensor([speech.size(1)])

    @torch.no_grad()
    def run() -> torch.Tensor:
        encoded, _ = model.encode(speech, lengths)
        encoded = encoded[0] if isinstance(encoded, tuple) else encoded
        return encoded if model.ctc is None else model.ctc.argmax(encoded)

    return run


def _noise(model: ESPnetASRModel, config: dict) -> torch.Tensor:
    """Input for the model: samples [1, N], or 10 ms features [1, N, D]."""
    generator = torch.Generator().manual_seed(0)
    if model.frontend is None:
        frames = int(SECONDS * FEATURES_PER_SECOND)
        return torch.randn(1, frames, config["input_size"], generator=generator)
    samples = int(SECONDS * sampling_rate(config))
    return torch.randn(1, samples, generator=generator)


def flops_per_second(run: Callable[[], torch.Tensor]) -> float:
    """FLOPs (2 per multiply-add; matrix products and convolutions) per audio second."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / SECONDS


def real_time_factors(runs: Sequence[Callable[[], torch.Tensor]]) -> list[float]:
    """Time / audio time on one thread: median of `REPEATS`, models taking turns."""
    times: list[list[float]] = [[] for _ in runs]
    with _one_thread():
        for run in runs:
            run()
        for _ in range(REPEATS):
            for run, own in zip(runs, times):
                start = time.perf_counter()
                run()
                own.append(time.perf_counter() - start)
    return [statistics.median(own) / SECONDS for own in times]


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
