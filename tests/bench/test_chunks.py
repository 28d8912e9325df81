import contextlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from livetalk.assembly.model import AvatarModel
from livetalk.assembly.random_model import build_random_model
from livetalk.assembly.run import RunConfig
from livetalk.assembly.source import ModelSource
from livetalk.assembly.spec import PortraitConfig
from livetalk.bench.chunks import FIRST_CHUNKS, ChunkBench, draw_picture, hum
from livetalk.bench.options import BenchOptions
from livetalk.bench.spans import CHUNK_SPAN, SURROUNDING_SPANS
from livetalk.engine.backend import Made, Preparation
from livetalk.engine.host_copy import HostCopy, PendingFrames
from livetalk.engine.messages import OpenStream
from livetalk.engine.table import StreamTable
from livetalk.errors import InputError
from livetalk.types import VideoChunk

OPTIONS = BenchOptions(
    source=ModelSource(random_weights="tiny"),
    run=RunConfig(device="cpu"),
    chunks=2,
    warm_up=2,
    size="32x16",
    num_steps=1,
)


@pytest.fixture(scope="module")
def model() -> AvatarModel:
    return build_random_model("tiny", device=torch.device("cpu"), dtype=torch.float32)


class WatchedTable(StreamTable):
    """Remembers what is asked for."""

    def __init__(self, model: AvatarModel) -> None:
        super().__init__(model)
        self.calls: list[str] = []
        self.requests: list[OpenStream] = []

    def open(self, request: OpenStream, preparation: Preparation, audio: NDArray[np.float32]) -> None:
        self.calls.append(f"open {request.stream}")
        self.requests.append(request)
        super().open(request, preparation, audio)

    def advance(
        self, stream: int, samples: NDArray[np.float32] | None = None, num_frames: int | None = None
    ) -> Made[VideoChunk]:
        self.calls.append(f"advance {stream}")
        assert samples is not None
        return super().advance(stream, samples, num_frames)

    def close(self, stream: int) -> None:
        self.calls.append(f"close {stream}")
        super().close(stream)


def test_it_runs_the_streams_and_chunks_that_it_says(model: AvatarModel) -> None:
    table = WatchedTable(model)
    told: list[tuple[int, int]] = []
    measured = ChunkBench(model, table, OPTIONS).measure(lambda done, total: told.append((done, total)))

    assert len(measured.intervals_ms) == 2 and min(measured.intervals_ms) > 0
    for first_ms in (measured.first_ms, measured.first_progressive_ms):
        assert len(first_ms) == FIRST_CHUNKS and min(first_ms) > 0
    total = 2 + 2 + 2 + 2 * FIRST_CHUNKS
    assert told == [(done, total) for done in range(1, total + 1)]
    assert [request.spec.progressive for request in table.requests] == [False, *[False, True] * FIRST_CHUNKS]
    first_streams = [f"{what} {stream}" for stream in range(2, 8) for what in ("open", "advance", "close")]
    assert table.calls == ["open 1", *["advance 1"] * 6, "close 1", *first_streams]
    spec = table.requests[0].spec
    assert (spec.size, spec.num_steps, spec.latents_per_decode) == ((32, 16), 1, None)


def test_the_first_frames_are_copied_without_the_rest(
    model: AvatarModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = ChunkBench(model, StreamTable(model), replace(OPTIONS, latents_per_decode=1))
    copied: list[int] = []
    start = HostCopy.start

    def count(copy: HostCopy, chunk: VideoChunk) -> PendingFrames:
        copied.append(chunk.pixels.shape[1])
        return start(copy, chunk)

    monkeypatch.setattr(HostCopy, "start", count)
    bench.measure(lambda done, total: None)
    assert copied == [8] * 6 + [8, 4] * FIRST_CHUNKS


def test_spans_are_those_of_the_measured_chunks(model: AvatarModel) -> None:
    options = replace(OPTIONS, num_steps=3)
    measured = ChunkBench(model, StreamTable(model), options).measure(lambda done, total: None)
    names = [timed.name for timed in measured.spans]
    assert measured.num_span_chunks == 4
    for name, count in ((CHUNK_SPAN, 4), ("step.transformer", 12), ("step.decode", 4), ("engine.copy", 4)):
        assert names.count(name) == count, name
    whole = [timed for timed in measured.spans if timed.name == CHUNK_SPAN]
    # An interval is a chunk and its copy, so it is not shorter than the shortest chunk.
    assert min(measured.intervals_ms) >= min(timed.duration_ms for timed in whole)
    assert measured.peak_memory_gb > 0.05 and measured.peak_reserved_gb is None


def test_no_stage_holds_another(model: AvatarModel) -> None:
    """Else a time would count twice in the sum of a chunk's stages."""
    measured = ChunkBench(model, StreamTable(model), OPTIONS).measure(lambda done, total: None)
    stages = sorted(
        (timed for timed in measured.spans if timed.name not in SURROUNDING_SPANS),
        key=lambda timed: timed.start_ms,
    )
    for before, after in itertools.pairwise(stages):
        assert before.end_ms <= after.start_ms, (before.name, after.name)


def test_the_last_chunk_of_a_stream_runs_inside_the_context(model: AvatarModel) -> None:
    table = WatchedTable(model)

    @contextlib.contextmanager
    def around() -> Iterator[None]:
        table.calls.append("enter")
        yield
        table.calls.append("leave")

    ChunkBench(model, table, OPTIONS).run_warm_chunk(2, around())
    chunks = ["advance 1", "advance 1", "enter", "advance 1", "leave"]
    assert table.calls == ["open 1", *chunks, "close 1"]


def test_the_audio_goes_on_from_chunk_to_chunk() -> None:
    whole = hum(0, 3200, 16_000)
    assert whole.dtype == torch.float32 and 0.1 < whole.abs().max() <= 1
    assert torch.equal(torch.cat((hum(0, 1600, 16_000), hum(1600, 1600, 16_000))), whole)


def test_the_picture_is_in_range_and_nowhere_flat() -> None:
    picture = draw_picture(PortraitConfig(height=32, width=48))
    assert picture.shape == (32, 48, 3) and picture.dtype == np.uint8
    assert (np.diff(picture.astype(int), axis=1) != 0).mean() > 0.95
    assert not math.isclose(picture[..., 0].std(), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunks": 1}, "chunks 1: at least 2"),
        ({"warm_up": 1}, "warm-up 1: at least 2"),
        ({"commit": "main"}, "commit main: is not 40 hexadecimal digits"),
    ],
)
def test_what_cannot_be_measured_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BenchOptions(**options)  # type: ignore[arg-type]
