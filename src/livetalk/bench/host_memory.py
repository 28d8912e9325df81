"""How much host memory this process takes while something runs."""

import threading
from pathlib import Path

POLL_SECONDS = 0.005
FIELDS = ("VmRSS", "RssAnon", "RssFile")
"""Of the kernel's account: resident memory, its anonymous share, and the share that shows files."""


def read_host_memory() -> dict[str, int]:
    """Return each of `FIELDS` now, bytes. Linux only."""
    found = {}
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name in FIELDS:
            found[name] = int(value.split()[0]) * 1024
    return found


class HostMemoryWatch:
    """Polls the kernel's account in a thread and keeps the highest values."""

    def __init__(self) -> None:
        """Start polling."""
        self._before = read_host_memory()
        self._peak = dict(self._before)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()

    def finish(self) -> dict[str, int]:
        """Stop polling and return how far each of `FIELDS` rose, bytes."""
        self._stop.set()
        self._thread.join()
        self._keep_highest()
        return {name: self._peak[name] - self._before[name] for name in FIELDS}

    def _poll(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            self._keep_highest()

    def _keep_highest(self) -> None:
        now = read_host_memory()
        self._peak = {name: max(self._peak[name], now[name]) for name in FIELDS}
