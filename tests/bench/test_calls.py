"""Calls are made as often as asked; warm-up and what lies between two calls is not timed."""

import pytest
import torch

from livetalk.bench import spans
from livetalk.bench.calls import time_call

CPU = torch.device("cpu")


class Clock:
    """A clock that stands still unless it is moved on."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(spans, "perf_counter", clock)
    return clock


def test_warm_up_is_not_timed(clock: Clock) -> None:
    lengths = iter([9.0, 9.0, 0.25, 0.5, 0.75])

    def call() -> None:
        clock.seconds += next(lengths)

    assert time_call(call, CPU, repeats=3, warm_up=2) == pytest.approx(500.0)
    assert next(lengths, None) is None


def test_the_median_ignores_one_slow_call(clock: Clock) -> None:
    lengths = iter([0.001, 5.0, 0.002])

    def call() -> None:
        clock.seconds += next(lengths)

    assert time_call(call, CPU, repeats=3, warm_up=0) == pytest.approx(2.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_devices_time_counts() -> None:
    device = torch.device("cuda")
    cycles = 20_000_000
    short = time_call(lambda: torch.cuda._sleep(cycles), device, repeats=5, warm_up=1)
    long = time_call(lambda: torch.cuda._sleep(4 * cycles), device, repeats=5, warm_up=1)
    assert 3 < long / short < 5
