"""Times of the library's spans, measured without synchronising within the work."""

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

from livetalk.errors import UNSUITABLE_CONTENT, InputError
from livetalk.media.files import write_text_file

CHUNK_SPAN = "engine.chunk"
"""Span of a whole chunk, except the copy of its frames."""

SURROUNDING_SPANS = frozenset({CHUNK_SPAN, "step.denoise"})
"""Spans that contain other spans. They are not stages: the times of stages add up to that of a chunk."""

_FORMER_PACKAGES = {"runtime": "engine"}
"""Former package name in the spans of older traces -> present name."""


@dataclass(frozen=True, slots=True)
class TimedSpan:
    """One span, from `start_ms` to `end_ms` after the start of the measurement."""

    name: str
    start_ms: float
    end_ms: float

    @property
    def duration_ms(self) -> float:
        return self.end_ms - self.start_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTiming:
    """Times of one stage.

    Attributes:
        sum_ms: sum over the calls of a chunk, averaged over chunks; None in records older than the field.
    """

    median_ms: float  # of single calls
    p95_ms: float  # 95th percentile of single calls
    per_chunk: int  # number of calls in a chunk
    sum_ms: float | None = None

    @property
    def chunk_ms(self) -> float:
        """Time per chunk in milliseconds, over all calls."""
        # Calls within a chunk may differ in size, so the sum is preferred; old records lack it.
        return self.median_ms * self.per_chunk if self.sum_ms is None else self.sum_ms


class SpanTimer:
    """An observer of spans that records CUDA events on a GPU and reads the clock elsewhere.

    On a GPU, span times are device times, independent of when the host launched the work.
    """

    def __init__(self, device: torch.device) -> None:
        """Set the origin of time; a GPU must be idle."""
        self._device = device
        self._began = perf_counter()
        self._origin = self._record_event() if device.type == "cuda" else None
        self._spans: list[tuple[str, _Moment, _Moment]] = []

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a block."""
        start = self._now()
        try:
            yield
        finally:
            self._spans.append((name, start, self._now()))

    def read(self) -> list[TimedSpan]:
        """Synchronise with the device, and return all spans in the order in which they ended on the host."""
        wait_for(self._device)
        return [TimedSpan(name, self._read(start), self._read(end)) for name, start, end in self._spans]

    def _now(self) -> "_Moment":
        return perf_counter() if self._origin is None else self._record_event()

    def _record_event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        # The current stream of the work may differ from the stream on which the timer was created.
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _read(self, moment: "_Moment") -> float:
        if isinstance(moment, float):
            return 1000 * (moment - self._began)
        assert self._origin is not None
        return float(self._origin.elapsed_time(moment))


_Moment = float | torch.cuda.Event


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def summarize_stages(spans: Iterable[TimedSpan], num_chunks: int) -> dict[str, StageTiming]:
    """Return stage -> timing over `num_chunks` complete chunks; a stage is the end of its span's name."""
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
    """Return the value that `share` percent of the values do not exceed, interpolated."""
    return float(np.percentile(np.fromiter(values, dtype=np.float64), share))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Spans of several chunks, in any order, for drawing."""

    title: str
    spans: tuple[TimedSpan, ...]

    def save(self, path: Path, *, overwrite: bool = False) -> Path:
        """Write the trace-event format of browsers' trace viewers: microseconds, one row per span name."""
        rows = {name: row for row, name in enumerate(dict.fromkeys(span.name for span in self.spans))}
        events: list[dict[str, object]] = [
            {"ph": "M", "name": "thread_name", "pid": 0, "tid": row, "args": {"name": name}}
            for name, row in rows.items()
        ]
        for span in self.spans:
            position = {"pid": 0, "tid": rows[span.name], "ts": 1000 * span.start_ms}
            events.append({"ph": "X", "name": span.name, **position, "dur": 1000 * span.duration_ms})
        text = json.dumps({"otherData": {"title": self.title}, "traceEvents": events}) + "\n"
        return write_text_file(path, text, overwrite=overwrite)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file written by `save`, also by versions with other package names.

        Raises:
            InputError: the file cannot be read, or is not such a trace.
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
        except UNSUITABLE_CONTENT as error:
            raise InputError(f"trace {path}: was not written by livetalk bench --trace") from error


def _current_name(name: str) -> str:
    package, dot, stage = name.partition(".")
    return _FORMER_PACKAGES.get(package, package) + dot + stage
