"""Host memory of this process over time. Linux only."""

import threading
from pathlib import Path

POLL_SECONDS = 0.005

FIELDS = ("VmRSS", "RssAnon", "RssFile")
"""Fields of /proc/self/status: resident memory, its anonymous part, and its file-backed part."""


def read_host_memory() -> dict[str, int]:
    """Return the current value of each of `FIELDS` in bytes."""
    found = {}
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name in FIELDS:
            found[name] = int(value.split()[0]) * 1024
    return found


class HostMemoryMonitor:
    """Polls the host memory of this process in a thread and keeps the peaks."""

    def __init__(self) -> None:
        """Start polling."""
        self._before = read_host_memory()
        self._peak = dict(self._before)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()

    def finish(self) -> dict[str, int]:
        """Stop polling and return the peak of each of `FIELDS` above its initial value, in bytes."""
        self._stop.set()
        self._thread.join()
        self._update_peak()
        return {name: self._peak[name] - self._before[name] for name in FIELDS}

    def _poll(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            self._update_peak()

    def _update_peak(self) -> None:
        now = read_host_memory()
        self._peak = {name: max(self._peak[name], now[name]) for name in FIELDS}
