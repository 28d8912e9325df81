"""How long one call takes by itself: kernels, layers, anything that is no stream."""

import statistics
from collections.abc import Callable

import torch

from livetalk.bench.spans import SpanTimer, wait_for


def time_call(call: Callable[[], object], device: torch.device, *, repeats: int, warm_up: int) -> float:
    """Return the median time of a call, milliseconds.

    Args:
        call: what is timed; on a GPU the time is the device's, from an idle start, so that a kernel shorter
            than its launch takes as long as the launch.
        device: that does the work.
        repeats: calls that are timed.
        warm_up: calls before them.
    """
    for _ in range(warm_up):
        call()
    wait_for(device)
    timer = SpanTimer(device)
    for _ in range(repeats):
        with timer("call"):
            call()
        wait_for(device)
    return statistics.median(span.duration_ms for span in timer.read())
