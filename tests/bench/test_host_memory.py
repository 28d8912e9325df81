"""The kernel's account of a process's memory, while it grows."""

import sys

import pytest
import torch

from livetalk.bench.host_memory import FIELDS, HostMemoryMonitor, read_host_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_resident_memory_is_its_parts() -> None:
    memory = read_host_memory()
    assert set(memory) == set(FIELDS)
    assert 0 < memory["RssAnon"] + memory["RssFile"] <= memory["VmRSS"]


def test_memory_that_was_given_back_still_counts() -> None:
    watch = HostMemoryMonitor()
    ballast = torch.ones(64 * 2**20, dtype=torch.uint8)
    held = watch.finish()
    del ballast
    assert 60 * 2**20 < held["RssAnon"] < 128 * 2**20


def test_a_peak_between_start_and_end_is_seen() -> None:
    seen = 0
    watch = HostMemoryMonitor()
    for _ in range(200):
        # Written anew each time, so that the thread has time to look.
        seen = int(torch.ones(64 * 2**20, dtype=torch.uint8)[-1])
    assert seen == 1
    assert watch.finish()["RssAnon"] > 50 * 2**20
