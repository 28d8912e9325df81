"""Timing of the chunks of a stream, each copied to the host while the next is computed, as in the engine."""

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
"""Streams opened to measure the time to the first frame, for whole chunks and for progressive streams."""

_IN_FLIGHT = 2
"""Additional chunks: one before the first measured interval, one that computes during the last arrival."""

_PITCH_HERTZ = 180
_SYLLABLES_HERTZ = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Results of one measurement.

    Attributes:
        first_ms: per new stream, from its available audio to its first chunk's frames in host memory.
        first_progressive_ms: per new progressive stream, from its audio to its first decoded frames.
    """

    intervals_ms: tuple[float, ...]  # between the arrivals of consecutive chunks' frames in host memory
    first_ms: tuple[float, ...]
    first_progressive_ms: tuple[float, ...]
    spans: tuple[TimedSpan, ...]  # of the measured chunks and the additional ones around them
    num_span_chunks: int  # number of chunks in `spans`
    peak_memory_gb: float  # as in `BenchRecord`, like the two fields below
    peak_reserved_gb: float | None
    memory_growth_gb: float | None


class ChunkBench:
    """Runs the streams of one measurement."""

    def __init__(self, model: AvatarModel, backend: Backend[VideoChunk], options: BenchOptions) -> None:
        """Prepare a measurement; `backend` runs the streams of `model`, on all ranks if there are several."""
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
        """Warm up, measure chunks, then open new streams; `progress` gets the chunks done and in total."""
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
        # After the warm-up, so that allocations of the first chunks do not count as growth.
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
        """Launch the chunks of a new stream on demand."""
        stream = self._open(self._spec)
        for index in range(num_chunks):
            yield self._launch(stream, index)
        self._backend.close(stream)

    def _time_first(self, advance: Callable[[], None], *, progressive: bool = False) -> float:
        """Return the time in ms to the first frames of a new stream in host memory."""
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
        """Launch a chunk, or the first piece of one in a progressive stream."""
        made = self._backend.advance(stream, self._audio(index).numpy())
        assert made.frames is not None
        return self._backend.start_copy(made.frames)

    def _audio(self, index: int) -> Tensor:
        return hum(index * self._chunk_samples, self._chunk_samples, self._rate)

    def run_warm_chunk(self, warm_up: int, around: AbstractContextManager[object]) -> None:
        """Run `warm_up` chunks of a new stream, and one more within a context manager, such as a profiler.

        The context is left when the device has finished the chunk.
        """
        launches = self._launch_chunks(warm_up + 1)
        for _ in range(warm_up):
            next(launches).wait()
        wait_for(self._device)
        with around:
            next(launches).wait()
            wait_for(self._device)
        # Exhausting the generator closes the stream.
        next(launches, None)


def stream_spec(options: BenchOptions) -> StreamSpec:
    """Return the specification of the measured streams; `InputError` if an option is out of range."""
    return StreamSpec(
        crop="none",
        num_steps=options.num_steps,
        size=None if options.size is None else parse_size(options.size),
        latents_per_decode=options.latents_per_decode,
        cuttable=False,
    )


def _time_arrivals(launches: Iterator[HostFrames], advance: Callable[[], None]) -> list[float]:
    """Return the times at which each chunk's frames arrived, all but the last."""
    # The next chunk is launched before each wait, so that a GPU is never idle, as in a stream. On a CPU a
    # launch computes the chunk, and the intervals are those of whole chunks, too.
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
    """Tracks the memory of a GPU, or of the process if there is none."""

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
        # The peak of `max_memory_reserved` was reset, but PyTorch still holds what it had reserved before.
        reserved = max(self._reserved, torch.cuda.max_memory_reserved(self._device))
        return torch.cuda.max_memory_allocated(self._device) / 1e9, reserved / 1e9, growth / 1e9


def draw_picture(portrait: PortraitConfig) -> NDArray[np.uint8]:
    """Draw waves of colour, `[H, W, 3]` uint8."""
    rows, columns = (np.linspace(0, 1, side) for side in (portrait.height, portrait.width))
    # Varied values: power and clocks of a GPU depend on the data, and constant images draw less.
    waves = [np.sin(math.tau * (k * rows[:, None] + (4 - k) * columns[None])) for k in (1, 2, 3)]
    picture: NDArray[np.uint8] = ((np.stack(waves, axis=2) + 1) * 127.5).astype(np.uint8)
    return picture


def hum(start: int, num_samples: int, sample_rate: int) -> Tensor:
    """Return a tone with the rhythm of syllables, `[n]` float32, -1..1, from sample `start` of a stream."""
    time = torch.arange(start, start + num_samples, dtype=torch.float64) / sample_rate
    envelope = 0.5 + 0.5 * torch.sin(math.tau * _SYLLABLES_HERTZ * time)
    return (0.3 * envelope * torch.sin(math.tau * _PITCH_HERTZ * time)).float()
