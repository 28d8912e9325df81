"""Progress of a video: a bar on a terminal, plain lines on standard output otherwise.

Without a terminal nothing is written to standard error, so that it contains errors only.
"""

import sys
from time import monotonic
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

_LINE_INTERVAL_SECONDS = 10.0


class VideoProgress:
    """Shows frames done, frames per second, speed relative to real time and the remaining time.

    Call it with the number of finished frames and the total; use it as a context manager.
    """

    def __init__(self, title: str, fps: int) -> None:
        """Store the title and the video's frames per second; nothing is shown before the first call."""
        self._title = title
        self._fps = fps
        self._started = monotonic()
        self._last_line = self._started
        self._num_done = 0
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}: {task.completed:.0f}/{task.total:.0f} frames"),
                BarColumn(),
                _SpeedColumn(fps),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            # Hidden until the first call, so that an error before it leaves no empty bar.
            self._task = self._bar.add_task(title, total=None, visible=False)

    def __enter__(self) -> Self:
        """Start the clock."""
        self._started = self._last_line = monotonic()
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

    def __call__(self, num_done: int, num_frames: int) -> None:
        """Show that `num_done` of `num_frames` frames are finished."""
        self._num_done = num_done
        if self._bar is not None:
            self._bar.update(self._task, completed=num_done, total=num_frames, visible=True)
            return
        now = monotonic()
        # Log files and pipes get few lines, and none after the last frame.
        if now - self._last_line >= _LINE_INTERVAL_SECONDS and num_done < num_frames:
            self._last_line = now
            left = (num_frames - num_done) / self.frames_per_second
            print(
                f"{self._title}: {num_done}/{num_frames} frames, {self.speed}, {left:.0f} s left", flush=True
            )

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since the start."""
        return monotonic() - self._started

    @property
    def frames_per_second(self) -> float:
        """Mean speed so far."""
        return self._num_done / max(self.elapsed_seconds, 1e-6)

    @property
    def speed(self) -> str:
        """Mean speed so far as text."""
        return _describe_speed(self.frames_per_second, self._fps)


class _SpeedColumn(ProgressColumn):
    """Frames per second and the speed relative to real time."""

    def __init__(self, fps: int) -> None:
        super().__init__()
        self._fps = fps

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else _describe_speed(speed, self._fps))


def _describe_speed(frames_per_second: float, fps: int) -> str:
    return f"{frames_per_second:.1f} frames/s ({frames_per_second / fps:.2f}x real time)"
