"""Timing of single calls of kernels, layers and other functions."""

import statistics
from collections.abc import Callable

import torch

from livetalk.bench.spans import SpanTimer, wait_for


def time_call(call: Callable[[], object], device: torch.device, *, repeats: int, warm_up: int) -> float:
    """Return the median time of a call in milliseconds, after `warm_up` untimed calls.

    On a GPU it is device time from an idle start: a kernel shorter than its launch counts as long as the
    launch.
    """
    for _ in range(warm_up):
        call()
    wait_for(device)
    timer = SpanTimer(device)
    for _ in range(repeats):
        with timer("call"):
            call()
        # Each call starts on an idle device, so that calls do not overlap.
        wait_for(device)
    return statistics.median(span.duration_ms for span in timer.read())
