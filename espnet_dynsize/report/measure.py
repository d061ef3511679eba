"""What one model costs: parameters, FLOPs, time."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from tqdm import tqdm

from espnet_dynsize.deploy.audio import read_audio, transcribe
from espnet_dynsize.deploy.experiment import sampling_rate
from espnet_dynsize.deploy.open import open_model
from espnet_dynsize.deploy.recogniser import FEATURES_PER_SECOND
from espnet_dynsize.encoder.costs import count_flops
from espnet_dynsize.encoder.sparse import is_matrix

SECONDS = 10.0
REPEATS = 15


def count_parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def kept_weights(model: torch.nn.Module) -> int:
    """Parameters without the zeros of sparse matrices."""
    zeros = sum(zeros_in(m.weight) for m in model.modules() if is_matrix(m))
    return count_parameters(model) - zeros


def zeros_in(weight: torch.Tensor) -> int:
    return weight.numel() - int(weight.count_nonzero())


def zero_flops_per_second(model: torch.nn.Module, run: "Run") -> float:
    """Those of `flops_per_second` that multiply with zeros of sparse matrices."""
    total = 0.0
    hooks = []

    def count(matrix: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal total
        # Every output but those of a bias is a sum over a row of the matrix.
        outputs, *_ = getattr(matrix, "whole", matrix.weight.shape)
        positions = output.numel() / outputs
        total += 2 * positions * zeros_in(matrix.weight)

    for matrix in filter(is_matrix, model.modules()):
        hooks.append(matrix.register_forward_hook(count))
    try:
        run.call()
    finally:
        for hook in hooks:
            hook.remove()
    return total / run.seconds


class Run(NamedTuple):
    """Something to be timed."""

    call: Callable[[], object]
    seconds: float  # of audio that it works on


def encoder_run(model: ESPnetASRModel, config: dict) -> Run:
    """Encodes `SECONDS` of noise, up to the CTC output."""
    speech = _noise(model, config)
    lengths = torch.tensor([speech.size(1)])

    @torch.no_grad()
    def run() -> torch.Tensor:
        encoded, _ = model.encode(speech, lengths)
        encoded = encoded[0] if isinstance(encoded, tuple) else encoded
        ctc = getattr(model, "ctc", None)  # ESPnet's other task has none of that name
        return encoded if ctc is None else ctc.argmax(encoded)

    return Run(run, SECONDS)


def recogniser_run(folder: Path, model_file: str, audio: Sequence[Path]) -> Run:
    """Recognises audio files as `transcribe` does: search and all."""
    recogniser = open_model(folder, None, model_file)
    waveforms = [read_audio(path) for path in audio]

    def run() -> list[str]:
        return [
            transcribe(recogniser, *waveform, recogniser.rate) for waveform in waveforms
        ]

    return Run(run, sum(len(samples) / hertz for samples, hertz in waveforms))


def _noise(model: ESPnetASRModel, config: dict) -> torch.Tensor:
    """Input for the model: samples [1, N], or 10 ms features [1, N, D]."""
    # The same input for every model that is compared.
    generator = torch.Generator().manual_seed(0)
    if model.frontend is None:
        frames = int(SECONDS * FEATURES_PER_SECOND)
        return torch.randn(1, frames, config["input_size"], generator=generator)
    samples = int(SECONDS * sampling_rate(config))
    return torch.randn(1, samples, generator=generator)


def flops_per_second(run: Run) -> float:
    """FLOPs (2 per multiply-add; matrix products and convolutions) per audio second."""
    with count_flops() as counter:
        run.call()
    return counter.get_total_flops() / run.seconds


def real_time_factors(runs: Sequence[Run]) -> list[float]:
    """Time / audio time on one thread: median of `REPEATS`, models taking turns."""
    times: list[list[float]] = [[] for _ in runs]
    with _one_thread():
        # Once unmeasured: first calls build caches of positions.
        for run in runs:
            run.call()
        for _ in tqdm(range(REPEATS), desc="timing", disable=None, leave=False):
            for run, measured in zip(runs, times):
                start = time.perf_counter()
                run.call()
                measured.append(time.perf_counter() - start)
    return [statistics.median(t) / run.seconds for run, t in zip(runs, times)]


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
