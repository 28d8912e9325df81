"""Log of training metrics, as JSON lines and as text, and the throughput of a slice."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO


class MetricsLog:
    """Appends records to a JSON-lines file and prints each as one line of text."""

    def __init__(self, path: Path, stream: TextIO) -> None:
        """Open `path` for appending; the lines of text go to `stream`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        self._stream = stream
        self._start = time.monotonic()

    def write(self, stage: str, values: Mapping[str, float | int | str]) -> None:
        """Write one record; floats are rounded to five significant digits."""
        record = {"stage": stage, "seconds": round(time.monotonic() - self._start, 1)}
        record |= {key: _rounded(value) for key, value in values.items()}
        self._file.write(json.dumps(record) + "\n")
        # Flushed at once, so that the log of a killed process is complete.
        self._file.flush()
        text = " ".join(f"{key} {value}" for key, value in record.items() if key not in ("stage", "seconds"))
        self._stream.write(f"[{record['seconds']:>8}] {stage}: {text}\n")
        self._stream.flush()

    def close(self) -> None:
        self._file.close()


def _rounded(value: float | int | str) -> float | int | str:
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.5g}")
    return value


class Throughput:
    """Steps per second, progress and remaining time of a slice."""

    def __init__(self, minutes: float, max_steps: int) -> None:
        """Start the clock of a slice."""
        self._minutes = minutes
        self._max_steps = max_steps
        self._start = time.monotonic()

    def elapsed_seconds(self) -> float:
        """Seconds since the slice began."""
        return time.monotonic() - self._start

    def progress(self, step: int) -> float:
        """Share of the budget used after `step` steps, 0..1."""
        by_time = self.elapsed_seconds() / (60.0 * self._minutes)
        return min(1.0, max(by_time, step / self._max_steps))

    def summary(self, step: int) -> dict[str, float]:
        """Steps per second and estimated seconds to the end of the slice."""
        elapsed = max(1e-6, self.elapsed_seconds())
        progress = max(1e-6, self.progress(step))
        return {"steps_per_second": step / elapsed, "eta_seconds": elapsed * (1.0 / progress - 1.0)}
