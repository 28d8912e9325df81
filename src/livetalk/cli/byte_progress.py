"""Progress of a large file operation: a bar on a terminal, occasional plain lines otherwise."""

import sys
from time import monotonic
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

_LINE_INTERVAL_SECONDS = 10.0


class ByteProgress:
    """Shows bytes done and the total; call it with both, and use it as a context manager."""

    def __init__(self, title: str) -> None:
        """Store the title; nothing is shown before the first call."""
        self._title = title
        self._last_line = monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            # Hidden until the first call, so that an error before it leaves no empty bar.
            self._task = self._bar.add_task(title, total=None, visible=False)

    def __enter__(self) -> Self:
        """Start drawing."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop drawing, so that later output starts on a new line."""
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, num_done: int, num_bytes: int) -> None:
        """Show that `num_done` of `num_bytes` bytes are finished."""
        if self._bar is not None:
            self._bar.update(self._task, completed=num_done, total=num_bytes, visible=True)
            return
        now = monotonic()
        if now - self._last_line >= _LINE_INTERVAL_SECONDS and num_done < num_bytes:
            self._last_line = now
            print(f"{self._title}: {describe_bytes(num_done)} of {describe_bytes(num_bytes)}", flush=True)


def describe_bytes(num_bytes: int) -> str:
    """Format a number of bytes with powers of ten: 512 B, 3.4 MB, 32.8 GB."""
    if num_bytes < 1000:
        return f"{num_bytes} B"
    value = float(num_bytes)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.5:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:.1f} TB"
