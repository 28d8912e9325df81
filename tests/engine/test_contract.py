"""The contract of an engine: the same for the double and the real one, in a thread and in a process."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.contract_hosts import DEATH, FAULT, faulty_double, faulty_model
from livetalk.engine.engine import Engine, Stream
from livetalk.engine.messages import (
    FramesReady,
    SnapshotTaken,
    StreamClosed,
    StreamCut,
    StreamEnded,
    StreamEvent,
    StreamFailed,
    StreamOpened,
)
from livetalk.errors import EngineStoppedError, InputError
from livetalk.streaming.spec import StreamSpec

CHUNK = 12
SAMPLES_PER_FRAME = 640
TIMEOUT = 120.0
SPEC = StreamSpec(progressive=True, latents_per_decode=1, seed=3, crop="center")
WHOLE_CHUNKS = replace(SPEC, progressive=False)

PICTURE = np.random.default_rng(0).integers(1, 256, (64, 112, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Kind:
    """A kind of engine.

    Attributes:
        name: of it.
        start: starts one.
        own_process: it can die alone.
    """

    name: str
    start: Callable[[], Engine]
    own_process: bool


KINDS = [
    Kind("double", lambda: Engine.in_thread(faulty_double()), False),
    Kind("double in a process", lambda: Engine.in_process("engine.contract_hosts:host_faulty_double"), True),
    Kind("model", lambda: Engine.in_thread(faulty_model()), False),
    Kind("model in a process", lambda: Engine.in_process("engine.contract_hosts:host_faulty_model"), True),
    Kind(
        "model in two processes",
        lambda: Engine.in_process("engine.contract_hosts:host_faulty_model", num_workers=2),
        True,
    ),
]
IN_PROCESS = [kind for kind in KINDS if kind.own_process]


@contextmanager
def running(kind: Kind) -> Iterator[Engine]:
    with kind.start() as engine:
        engine.wait_ready(TIMEOUT)
        yield engine
    assert engine.failure is None and not engine.running


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Give one engine of each kind, which all tests share: none may hurt the others' streams."""
    with running(request.param) as engine:
        yield engine


def voice(num_frames: float, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 0.1, round(num_frames * SAMPLES_PER_FRAME)).clip(-0.8, 0.8).astype(np.float32)


def next_event(stream: Stream, kind: type[StreamEvent]) -> Any:
    """Return the next event, which is of a kind."""
    event = stream.next_event(TIMEOUT)
    assert isinstance(event, kind), event
    return event


def frames_until(stream: Stream, kind: type[StreamEvent]) -> tuple[list[FramesReady], Any]:
    """Return frames and the first other event, which is of a kind."""
    frames: list[FramesReady] = []
    while isinstance(event := stream.next_event(TIMEOUT), FramesReady):
        frames.append(event)
    assert isinstance(event, kind), event
    return frames, event


def open_stream(engine: Engine, spec: StreamSpec = SPEC, **more: Any) -> Stream:
    stream = engine.open(PICTURE, spec, **more)
    info = next_event(stream, StreamOpened).info
    assert (info.fps, info.sample_rate, info.chunk_frames) == (25, 16_000, CHUNK)
    return stream


def close(stream: Stream) -> None:
    stream.close()
    frames_until(stream, StreamClosed)
    assert stream.next_event(TIMEOUT) is None


def join(events: list[FramesReady], first_frame: int = 0) -> NDArray[np.uint8]:
    """Put frames together, and check that none is missing or double."""
    for event in events:
        assert event.first_frame == first_frame
        assert event.frames.dtype == np.uint8 and event.frames.shape[0] >= 1
        first_frame += event.frames.shape[0]
    return np.concatenate([event.frames for event in events])


def make(engine: Engine, audio: NDArray[np.float32], spec: StreamSpec = SPEC) -> NDArray[np.uint8]:
    """Return all frames of a stream."""
    stream = open_stream(engine, spec)
    stream.push_audio(audio)
    stream.end_audio()
    frames, ended = frames_until(stream, StreamEnded)
    close(stream)
    made = join(frames)
    assert ended.num_frames == made.shape[0]
    return made


def test_frames_come_in_order_and_cover_the_audio(engine: Engine) -> None:
    stream = open_stream(engine)
    audio = voice(2 * CHUNK + 4.5)
    for start in range(0, len(audio), 1000):
        stream.push_audio(audio[start : start + 1000])
    stream.end_audio()
    frames, ended = frames_until(stream, StreamEnded)
    assert join(frames).shape[0] == 2 * CHUNK + 5 == ended.num_frames
    assert len(frames) > 3, "a progressive stream delivers parts of a chunk"
    assert {event.epoch for event in frames} == {0} and ended.epoch == 0
    close(stream)


def test_the_same_stream_gives_the_same_frames(engine: Engine) -> None:
    audio = voice(CHUNK + 3)
    first = make(engine, audio)
    assert np.array_equal(first, make(engine, audio))
    stream = open_stream(engine, WHOLE_CHUNKS)
    stream.push_audio(audio)
    stream.end_audio()
    frames, _ = frames_until(stream, StreamEnded)
    assert [event.frames.shape[0] for event in frames] == [CHUNK, 3]
    close(stream)


def test_no_audio_gives_no_frames(engine: Engine) -> None:
    stream = open_stream(engine)
    stream.end_audio()
    assert next_event(stream, StreamEnded).num_frames == 0
    close(stream)


def test_requests_may_come_before_the_stream_is_open(engine: Engine) -> None:
    stream = engine.open(PICTURE, SPEC)
    stream.push_audio(voice(2))
    stream.cut(0)
    stream.push_audio(voice(CHUNK))
    stream.end_audio()
    next_event(stream, StreamOpened)
    cut = next_event(stream, StreamCut)
    assert (cut.epoch, cut.num_frames, cut.num_samples) == (1, 0, 0)
    frames, _ = frames_until(stream, StreamEnded)
    assert join(frames).shape[0] == CHUNK
    close(stream)


def test_a_cut_goes_on_after_the_frame_that_was_shown_last(engine: Engine) -> None:
    stream = open_stream(engine)
    audio = voice(3 * CHUNK)
    stream.push_audio(audio)
    shown: list[FramesReady] = []
    while sum(event.frames.shape[0] for event in shown) < CHUNK + 1:
        shown.append(next_event(stream, FramesReady))
    stream.cut(CHUNK - 3)
    stream.push_audio(voice(CHUNK, seed=1))
    stream.end_audio()
    cut = next_event(stream, StreamCut)
    assert (cut.epoch, cut.num_frames, cut.num_samples) == (1, CHUNK - 3, (CHUNK - 3) * SAMPLES_PER_FRAME)
    frames, ended = frames_until(stream, StreamEnded)
    assert {event.epoch for event in frames} == {1} and ended.epoch == 1
    assert join(frames, CHUNK - 3).shape[0] == CHUNK and ended.num_frames == 2 * CHUNK - 3
    close(stream)


def test_cuts_may_follow_each_other_and_the_end(engine: Engine) -> None:
    stream = open_stream(engine)
    stream.push_audio(voice(CHUNK))
    stream.end_audio()
    frames_until(stream, StreamEnded)
    stream.cut(CHUNK)
    stream.cut(5)
    stream.cut(5)
    stream.push_audio(voice(2))
    stream.end_audio()
    # What was answered to the cuts before the newest is dropped with their epochs.
    assert next_event(stream, StreamCut).epoch == 3
    frames, ended = frames_until(stream, StreamEnded)
    assert join(frames, 5).shape[0] == 2 and ended.epoch == 3
    close(stream)


def test_audio_of_an_older_epoch_is_dropped(engine: Engine) -> None:
    stream = open_stream(engine)
    stream.cut(0)
    stream.epoch = 0
    stream.push_audio(voice(5 * CHUNK))
    stream.epoch = 1
    next_event(stream, StreamCut)
    stream.push_audio(voice(4))
    stream.end_audio()
    frames, _ = frames_until(stream, StreamEnded)
    assert join(frames).shape[0] == 4
    close(stream)


def test_a_cut_to_a_frame_that_was_never_made_fails_the_stream_alone(engine: Engine) -> None:
    stream, other = open_stream(engine), open_stream(engine)
    stream.cut(99)
    assert next_event(stream, StreamFailed).failure.kind == "InputError"
    assert stream.next_event(TIMEOUT) is None
    close(other)


def test_a_snapshot_is_continued_as_if_nothing_had_happened(engine: Engine) -> None:
    audio = voice(3 * CHUNK)
    expected = make(engine, audio, WHOLE_CHUNKS)
    stream = open_stream(engine, WHOLE_CHUNKS)
    stream.push_audio(audio[: CHUNK * SAMPLES_PER_FRAME])
    first = next_event(stream, FramesReady)
    stream.take_snapshot()
    snapshot = next_event(stream, SnapshotTaken).snapshot
    close(stream)
    assert (snapshot.num_frames, snapshot.num_samples) == (CHUNK, CHUNK * SAMPLES_PER_FRAME)
    again = open_stream(engine, WHOLE_CHUNKS, snapshot=snapshot)
    again.push_audio(audio[snapshot.num_samples :])
    again.end_audio()
    frames, _ = frames_until(again, StreamEnded)
    assert np.array_equal(join([first, *frames]), expected)
    close(again)


def test_a_stream_that_is_not_read_waits_and_others_go_on(engine: Engine) -> None:
    slow, quick = open_stream(engine), open_stream(engine)
    audio = voice(6 * CHUNK)
    for stream in (slow, quick):
        stream.push_audio(audio)
        stream.end_audio()
    frames, _ = frames_until(quick, StreamEnded)
    assert join(frames).shape[0] == 6 * CHUNK
    # One chunk may be under way when the limit of one chunk is reached.
    waiting = slow._events._items
    assert sum(event.frames.shape[0] for event in waiting if isinstance(event, FramesReady)) <= 2 * CHUNK
    frames, _ = frames_until(slow, StreamEnded)
    assert join(frames).shape[0] == 6 * CHUNK
    close(slow)
    close(quick)


def test_a_fault_fails_its_stream_and_no_other(engine: Engine) -> None:
    bad, good = open_stream(engine), open_stream(engine)
    audio = voice(2 * CHUNK)
    good.push_audio(audio)
    good.end_audio()
    bad.push_audio(np.concatenate((audio, np.full(CHUNK * SAMPLES_PER_FRAME, FAULT))))
    frames, failed = frames_until(bad, StreamFailed)
    assert join(frames).shape[0] == 2 * CHUNK
    assert (failed.failure.kind, failed.failure.message) == ("ArithmeticError", "a fault on request")
    assert bad.next_event(TIMEOUT) is None
    frames, _ = frames_until(good, StreamEnded)
    assert join(frames).shape[0] == 2 * CHUNK
    close(good)


def test_a_portrait_that_cannot_be_encoded_fails_its_stream_alone(engine: Engine) -> None:
    good = open_stream(engine)
    bad = engine.open(np.zeros_like(PICTURE), SPEC)
    assert next_event(bad, StreamFailed).failure.message == "a black portrait"
    close(good)


def test_a_closed_stream_takes_nothing_more(engine: Engine) -> None:
    stream = open_stream(engine)
    stream.push_audio(voice(CHUNK))
    close(stream)
    stream.push_audio(voice(CHUNK))
    stream.end_audio()
    assert stream.next_event(TIMEOUT) is None


def test_events_can_be_awaited_while_the_event_loop_goes_on(engine: Engine) -> None:
    async def read() -> tuple[list[FramesReady], int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticking = asyncio.create_task(tick())
        stream = engine.open(PICTURE, SPEC)
        stream.push_audio(voice(CHUNK))
        stream.end_audio()
        frames = []
        async for event in stream:
            if isinstance(event, FramesReady):
                frames.append(event)
            if isinstance(event, StreamEnded):
                stream.close()
        ticking.cancel()
        return frames, ticks

    frames, ticks = asyncio.run(asyncio.wait_for(read(), TIMEOUT))
    assert join(frames).shape[0] == CHUNK and ticks > 3


def test_messages_are_checked_when_they_are_made(engine: Engine) -> None:
    stream = open_stream(engine)
    with pytest.raises(InputError, match="one channel"):
        stream.push_audio(np.zeros((2, 5), np.float32))
    with pytest.raises(InputError, match="not finite"):
        stream.push_audio(np.full(5, np.nan, np.float32))
    with pytest.raises(InputError, match=r"must be \[H, W, 3\]"):
        engine.open(PICTURE[..., 0], SPEC)
    with pytest.raises(InputError, match="num steps 0"):
        StreamSpec(num_steps=0)
    with pytest.raises(InputError, match="multiples of 16"):
        StreamSpec(size=(100, 64))
    close(stream)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_end_of_an_engine_ends_its_streams(kind: Kind) -> None:
    with running(kind) as engine:
        stream = open_stream(engine)
    next_event(stream, StreamClosed)
    with pytest.raises(EngineStoppedError):
        engine.open(PICTURE, SPEC)


@pytest.mark.parametrize("kind", IN_PROCESS, ids=lambda kind: kind.name)
def test_the_loss_of_an_engine_is_named_and_the_client_goes_on(kind: Kind) -> None:
    with kind.start() as engine, running(KINDS[0]) as other:
        streams = [open_stream(engine) for _ in range(2)]
        survivor = open_stream(other)
        streams[0].push_audio(np.full(CHUNK * SAMPLES_PER_FRAME, DEATH))
        for stream in streams:
            failure = frames_until(stream, StreamFailed)[1].failure
            assert failure.kind == "WorkerError", failure
        assert engine.failure is not None and not engine.running
        with pytest.raises(EngineStoppedError, match="WorkerError"):
            engine.open(PICTURE, SPEC)
        close(survivor)


def test_a_client_needs_no_pytorch() -> None:
    program = """
import sys
import numpy as np
from livetalk.engine.double import DoubleConfig, read_mark
from livetalk.engine.engine import Engine
from livetalk.engine.messages import FramesReady, StreamEnded
from livetalk.streaming.spec import StreamSpec

if __name__ == "__main__":
    config = DoubleConfig(real_time_factor=0.1)
    with Engine.in_process("livetalk.engine.double:host_double", config) as engine:
        stream = engine.open(np.ones((64, 64, 3), np.uint8), StreamSpec())
        stream.push_audio(np.zeros(28 * 640, np.float32))
        stream.end_audio()
        frames = []
        for event in stream:
            if isinstance(event, FramesReady):
                frames += list(event.frames)
            if isinstance(event, StreamEnded):
                break
    assert [read_mark(frame) for frame in frames] == [(n, 0) for n in range(28)]
    assert "torch" not in sys.modules, "a client must not load PyTorch"
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=TIMEOUT)
