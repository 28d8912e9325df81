"""A stream whose chunks are timed: the engine's own steps, the next one under way while one is copied."""

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from livetalk.assembly.model import AvatarModel
from livetalk.assembly.spec import PortraitConfig
from livetalk.assembly.stream_plan import plan_stream
from livetalk.bench.machine import peak_process_gb
from livetalk.bench.options import BenchOptions
from livetalk.bench.spans import SpanTimer, TimedSpan, wait_for
from livetalk.engine.backend import Backend, HostFrames
from livetalk.engine.messages import OpenStream
from livetalk.streaming.spec import StreamSpec, parse_size
from livetalk.tracing import observe_spans
from livetalk.types import VideoChunk

Progress = Callable[[int, int], None]

FIRST_CHUNKS = 3
"""Streams that are begun to measure how soon the first frame comes, each way."""

_IN_FLIGHT = 2
"""Chunks that run besides the measured ones: an interval begins with an arrival, and ends under the next
chunk."""

_PITCH_HERTZ = 180
_SYLLABLES_HERTZ = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What the clocks said.

    Attributes:
        intervals_ms: between the arrivals of consecutive chunks' frames in host memory.
        first_ms: of each new stream, from its sound in hand to its first chunk's frames in host memory.
        first_progressive_ms: likewise, to the first frames that are decoded.
        spans: of the measured chunks and those in flight around them.
        num_span_chunks: chunks that the spans are of.
        peak_memory_gb: see `BenchRecord`.
        peak_reserved_gb: likewise.
        memory_growth_gb: likewise.
    """

    intervals_ms: tuple[float, ...]
    first_ms: tuple[float, ...]
    first_progressive_ms: tuple[float, ...]
    spans: tuple[TimedSpan, ...]
    num_span_chunks: int
    peak_memory_gb: float
    peak_reserved_gb: float | None
    memory_growth_gb: float | None


class ChunkBench:
    """Runs the streams of one measurement."""

    def __init__(self, model: AvatarModel, backend: Backend[VideoChunk], options: BenchOptions) -> None:
        """Prepare.

        Args:
            model: of this process, ready.
            backend: runs streams, on all ranks if there are several.
            options: of the measurement.
        """
        self._backend = backend
        self._device = model.executor.device
        self._spec = stream_spec(options)
        plan = plan_stream(model, self._spec)
        self._picture = draw_picture(plan.portrait)
        self._rate = plan.settings.geometry.sample_rate
        self._chunk_samples = plan.settings.geometry.chunk_samples
        self._num_chunks, self._warm_up = options.chunks, options.warm_up
        self._num_streams = 0

    def measure(self, progress: Progress) -> Measurement:
        """Warm up, measure chunks, then begin new streams.

        Args:
            progress: told the chunks done, and the chunks in all.
        """
        total = self._warm_up + self._num_chunks + _IN_FLIGHT + 2 * FIRST_CHUNKS
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            progress(done, total)

        launches = self._launch_chunks(self._warm_up + self._num_chunks + _IN_FLIGHT)
        for _ in range(self._warm_up):
            next(launches).wait()
            advance()
        memory = _MemoryWatch(self._device)
        timer = SpanTimer(self._device)
        with observe_spans(timer):
            arrivals = _time_arrivals(launches, advance)
        spans = tuple(timer.read())
        peak_gb, reserved_gb, growth_gb = memory.read()
        first = [
            (self._time_first(advance), self._time_first(advance, progressive=True))
            for _ in range(FIRST_CHUNKS)
        ]
        first_ms, first_progressive_ms = zip(*first, strict=True)
        return Measurement(
            intervals_ms=tuple(1000 * (after - before) for before, after in itertools.pairwise(arrivals)),
            first_ms=first_ms,
            first_progressive_ms=first_progressive_ms,
            spans=spans,
            num_span_chunks=self._num_chunks + _IN_FLIGHT,
            peak_memory_gb=peak_gb,
            peak_reserved_gb=reserved_gb,
            memory_growth_gb=growth_gb,
        )

    def _launch_chunks(self, num_chunks: int) -> Iterator[HostFrames]:
        """Start chunk after chunk of a new stream, each when it is asked for."""
        stream = self._open(self._spec)
        for index in range(num_chunks):
            yield self._launch(stream, index)
        self._backend.close(stream)

    def _time_first(self, advance: Callable[[], None], *, progressive: bool = False) -> float:
        """Time the first frames of a new stream: of its first chunk, or of the first piece of it."""
        stream = self._open(replace(self._spec, progressive=progressive))
        wait_for(self._device)
        began = perf_counter()
        self._launch(stream, 0).wait()
        elapsed = perf_counter() - began
        self._backend.close(stream)
        advance()
        return 1000 * elapsed

    def _open(self, spec: StreamSpec) -> int:
        self._num_streams += 1
        request = OpenStream(stream=self._num_streams, image=self._picture, spec=spec)
        self._backend.open(request, self._backend.prepare(request), np.zeros(0, np.float32))
        return self._num_streams

    def _launch(self, stream: int, index: int) -> HostFrames:
        """Start a chunk, or of a progressive stream no more than its first frames."""
        made = self._backend.advance(stream, self._audio(index).numpy())
        assert made.frames is not None
        return self._backend.start_copy(made.frames)

    def _audio(self, index: int) -> Tensor:
        return hum(index * self._chunk_samples, self._chunk_samples, self._rate)

    def run_warm_chunk(self, warm_up: int, around: AbstractContextManager[object]) -> None:
        """Run the chunks of a new stream; the last one inside a context manager, such as a profiler.

        Args:
            warm_up: chunks before it.
            around: is left when the device is done with the chunk.
        """
        launches = self._launch_chunks(warm_up + 1)
        for _ in range(warm_up):
            next(launches).wait()
        wait_for(self._device)
        with around:
            next(launches).wait()
            wait_for(self._device)
        # Asked once more, it closes the stream.
        next(launches, None)


def stream_spec(options: BenchOptions) -> StreamSpec:
    """Return the specification of the streams that are measured.

    Raises:
        InputError: an option is out of its range.
    """
    return StreamSpec(
        crop="none",
        num_steps=options.num_steps,
        size=None if options.size is None else parse_size(options.size),
        latents_per_decode=options.latents_per_decode,
        cuttable=False,
    )


def _time_arrivals(launches: Iterator[HostFrames], advance: Callable[[], None]) -> list[float]:
    """Return when the frames of each chunk were there, with the next one started; the last is not counted.

    So a GPU always has work before it, as in a stream, and on a CPU, where starting a chunk is doing it, the
    intervals are those of whole chunks just the same.
    """
    arrivals = []
    pending = next(launches)
    for following in launches:
        pending.wait()
        arrivals.append(perf_counter())
        advance()
        pending = following
    pending.wait()
    advance()
    return arrivals


class _MemoryWatch:
    """Watches the memory of a device from here on; of the process where there is no GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._at_start = torch.cuda.memory_allocated(device)
            self._reserved = torch.cuda.memory_reserved(device)

    def read(self) -> tuple[float, float | None, float | None]:
        """Return peak, peak reserved and growth in 10^9 bytes, see `BenchRecord`."""
        if self._device.type != "cuda":
            return peak_process_gb(), None, None
        torch.cuda.synchronize(self._device)
        growth = torch.cuda.memory_allocated(self._device) - self._at_start
        # What was reserved before is still so: PyTorch gives nothing back by itself.
        reserved = max(self._reserved, torch.cuda.max_memory_reserved(self._device))
        return torch.cuda.max_memory_allocated(self._device) / 1e9, reserved / 1e9, growth / 1e9


def draw_picture(portrait: PortraitConfig) -> NDArray[np.uint8]:
    """Draw waves of colour, `[H, W, 3]` uint8: no run of equal numbers that a kernel could be quick at."""
    rows, columns = (np.linspace(0, 1, side) for side in (portrait.height, portrait.width))
    waves = [np.sin(math.tau * (k * rows[:, None] + (4 - k) * columns[None])) for k in (1, 2, 3)]
    picture: NDArray[np.uint8] = ((np.stack(waves, axis=2) + 1) * 127.5).astype(np.uint8)
    return picture


def hum(start: int, num_samples: int, sample_rate: int) -> Tensor:
    """Return a tone that rises and falls like syllables, `[n]` float32, -1..1.

    Args:
        start: sample of the stream that the first one is.
        num_samples: n.
        sample_rate: samples per second.
    """
    time = torch.arange(start, start + num_samples, dtype=torch.float64) / sample_rate
    envelope = 0.5 + 0.5 * torch.sin(math.tau * _SYLLABLES_HERTZ * time)
    return (0.3 * envelope * torch.sin(math.tau * _PITCH_HERTZ * time)).float()
