import pytest
import torch

from espnet_dynsize.report import measure
from espnet_dynsize.report.measure import Run


def test_flops_of_a_matrix_product():
    a, b = torch.randn(10, 20), torch.randn(20, 30)
    flops = measure.flops_per_second(Run(lambda: a @ b, 10.0))
    assert flops == 2 * 10 * 20 * 30 / 10


def test_parameters():
    assert measure.count_parameters(torch.nn.Linear(3, 4)) == 16


def test_real_time_factor_compares(monkeypatch):
    clock = iter([0, 1, 10, 14] * measure.REPEATS)
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    factors = measure.real_time_factors(
        [Run(lambda: None, 10.0), Run(lambda: None, 5.0)]
    )
    assert factors == [pytest.approx(0.1), pytest.approx(0.8)]
