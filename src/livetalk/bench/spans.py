"""When each span of the library began and ended, without changing the work or waiting amid it."""

import contextlib
import json
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Self

import numpy as np
import torch

from livetalk.errors import InputError

CHUNK_SPAN = "engine.chunk"
"""Surrounds all of a chunk but the copy of its frames."""

SURROUNDING_SPANS = frozenset({CHUNK_SPAN, "step.denoise"})
"""Spans that hold other spans; they are no stages, whose times add up to that of a chunk."""

_FORMER_PACKAGES = {"runtime": "engine"}
"""Packages by whose former name older traces call their spans."""


@dataclass(frozen=True, slots=True)
class TimedSpan:
    """One stretch of work.

    Attributes:
        name: of the span.
        start_ms: milliseconds after the start of the measurement.
        end_ms: likewise.
    """

    name: str
    start_ms: float
    end_ms: float

    @property
    def duration_ms(self) -> float:
        """Milliseconds from start to end."""
        return self.end_ms - self.start_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTiming:
    """How long one stage takes.

    Attributes:
        median_ms: of a single call, milliseconds.
        p95_ms: 19 of 20 calls take no longer.
        per_chunk: calls in a chunk.
        sum_ms: of all calls in a chunk, mean over the chunks, milliseconds; None in records that are older
            than this.
    """

    median_ms: float
    p95_ms: float
    per_chunk: int
    sum_ms: float | None = None

    @property
    def chunk_ms(self) -> float:
        """Milliseconds of a chunk: of all calls, which may differ, as the pieces of a window do."""
        return self.median_ms * self.per_chunk if self.sum_ms is None else self.sum_ms


class SpanTimer:
    """An observer of spans: on a GPU it leaves marks among the work, elsewhere it reads the clock.

    On a GPU a span lasts from when the device comes to it to when the device is done with it, whatever the
    host is at meanwhile.
    """

    def __init__(self, device: torch.device) -> None:
        """Start the time that spans are measured in.

        Args:
            device: that does the work; a GPU must be idle.
        """
        self._device = device
        self._began = perf_counter()
        self._origin = self._mark_device() if device.type == "cuda" else None
        self._marks: list[tuple[str, _Mark, _Mark]] = []

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a block."""
        start = self._mark()
        try:
            yield
        finally:
            self._marks.append((name, start, self._mark()))

    def read(self) -> list[TimedSpan]:
        """Wait for the device, and return all spans in the order in which they ended on the host."""
        wait_for(self._device)
        return [TimedSpan(name, self._read(start), self._read(end)) for name, start, end in self._marks]

    def _mark(self) -> "_Mark":
        return perf_counter() if self._origin is None else self._mark_device()

    def _mark_device(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        # Of the stream that the work goes to, which need not be the one that the timer was made on.
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _read(self, mark: "_Mark") -> float:
        if isinstance(mark, float):
            return 1000 * (mark - self._began)
        assert self._origin is not None
        return float(self._origin.elapsed_time(mark))


_Mark = float | torch.cuda.Event


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def summarize_stages(spans: Iterable[TimedSpan], num_chunks: int) -> dict[str, StageTiming]:
    """Return the timing of each stage, named by the last part of its span's name.

    Args:
        spans: of several whole chunks.
        num_chunks: how many.
    """
    durations: dict[str, list[float]] = {}
    for span in spans:
        if span.name not in SURROUNDING_SPANS:
            durations.setdefault(span.name.rpartition(".")[2], []).append(span.duration_ms)
    return {
        name: StageTiming(
            median_ms=statistics.median(values),
            p95_ms=percentile(values, 95),
            per_chunk=max(1, round(len(values) / num_chunks)),
            sum_ms=sum(values) / num_chunks,
        )
        for name, values in durations.items()
    }


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value that `share` percent of the values do not exceed, interpolated between neighbours."""
    return float(np.percentile(np.fromiter(values, dtype=np.float64), share))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Spans of several chunks, to be looked at.

    Attributes:
        title: what was run.
        spans: in any order.
    """

    title: str
    spans: tuple[TimedSpan, ...]

    def save(self, path: Path) -> None:
        """Write the trace in the format of browsers' trace viewers: microseconds, one row for each name."""
        rows = {name: row for row, name in enumerate(dict.fromkeys(span.name for span in self.spans))}
        events: list[dict[str, object]] = [
            {"ph": "M", "name": "thread_name", "pid": 0, "tid": row, "args": {"name": name}}
            for name, row in rows.items()
        ]
        for span in self.spans:
            place = {"pid": 0, "tid": rows[span.name], "ts": 1000 * span.start_ms}
            events.append({"ph": "X", "name": span.name, **place, "dur": 1000 * span.duration_ms})
        path.write_text(json.dumps({"otherData": {"title": self.title}, "traceEvents": events}) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a trace that `save` wrote, now or while packages had other names.

        Raises:
            InputError: there is none.
        """
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
            spans = tuple(
                TimedSpan(
                    _current_name(event["name"]), event["ts"] / 1000, (event["ts"] + event["dur"]) / 1000
                )
                for event in read["traceEvents"]
                if event["ph"] == "X"
            )
            return cls(title=str(read["otherData"]["title"]), spans=spans)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"trace {path}: is not one that livetalk bench --trace wrote") from error


def _current_name(name: str) -> str:
    package, dot, stage = name.partition(".")
    return _FORMER_PACKAGES.get(package, package) + dot + stage
