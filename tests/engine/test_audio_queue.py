"""Audio is taken in whole chunks, whatever the blocks, and every sample exactly once."""

import numpy as np
import pytest
from numpy.typing import NDArray

from livetalk.engine.audio_queue import AudioQueue
from livetalk.engine.messages import Snapshot, StreamInfo
from livetalk.streaming.settings import AudioMode

FRAME = 640
CHUNK_FRAMES = 28
CHUNK = CHUNK_FRAMES * FRAME


def info(lookahead_frames: int = 0, mode: AudioMode = AudioMode.STREAM) -> StreamInfo:
    return StreamInfo(
        fps=25,
        sample_rate=16_000,
        height=16,
        width=16,
        chunk_frames=CHUNK_FRAMES,
        lookahead_frames=lookahead_frames,
        audio_mode=mode,
        cut_frames=0,
    )


def count(num_samples: int) -> NDArray[np.float32]:
    return np.arange(1, num_samples + 1, dtype=np.float32)


def feed(queue: AudioQueue, samples: NDArray[np.float32], size: int) -> list[tuple[NDArray[np.float32], int]]:
    """Push blocks, end the audio; return the start and all chunks, each as soon as it is there."""
    taken: list[tuple[NDArray[np.float32], int]] = []
    started = False
    for start in range(0, len(samples) + size, size):
        queue.push(samples[start : start + size])
        queue.ended = start + size >= len(samples) + size
        if start >= len(samples):
            queue.ended = True
        if not started and queue.has_start:
            taken.append((queue.take_start(), 0))
            started = True
        while started and queue.has_chunk:
            taken.append(queue.take_chunk())
    assert queue.exhausted
    return taken


@pytest.mark.parametrize("lookahead_frames", [0, 3, 28, 40])
@pytest.mark.parametrize("size", [1_000, CHUNK, 100_000])
@pytest.mark.parametrize("num_samples", [1, 640, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 700])
def test_all_audio_is_taken_once_and_in_order(num_samples: int, size: int, lookahead_frames: int) -> None:
    (start, _), *chunks = feed(AudioQueue(info(lookahead_frames)), count(num_samples), size)
    assert sum(num_frames for _, num_frames in chunks) == -(-num_samples // FRAME)
    assert all(num_frames == CHUNK_FRAMES for _, num_frames in chunks[:-1])
    assert all(samples.shape == (CHUNK,) for samples, _ in chunks)
    lead = np.zeros(lookahead_frames * FRAME, np.float32)
    lead[: start.shape[0]] = start
    fed = np.concatenate([lead, *(samples for samples, _ in chunks)])
    assert np.array_equal(fed[:num_samples], count(num_samples))
    assert not fed[num_samples:].any()


def test_a_whole_recording_is_the_start_and_is_taken_again_in_chunks() -> None:
    (start, _), *chunks = feed(AudioQueue(info(5, AudioMode.WHOLE)), count(CHUNK + 700), 999)
    assert np.array_equal(start, count(CHUNK + 700))
    assert [num_frames for _, num_frames in chunks] == [CHUNK_FRAMES, 2]
    again = np.concatenate([samples for samples, _ in chunks])
    assert np.array_equal(again[: CHUNK + 700], count(CHUNK + 700))


@pytest.mark.parametrize("lookahead_frames", [0, 4])
def test_no_audio_gives_no_chunks(lookahead_frames: int) -> None:
    (start, _), *chunks = feed(AudioQueue(info(lookahead_frames)), count(0), 10)
    assert start.shape == (0,) and chunks == []


def test_a_chunk_is_there_as_soon_as_its_audio_is() -> None:
    queue = AudioQueue(info(lookahead_frames=2))
    queue.push(count(2 * FRAME - 1))
    assert not queue.has_start
    queue.push(count(1))
    assert queue.has_start and queue.take_start().shape == (2 * FRAME,)
    queue.push(count(CHUNK - 1))
    assert not queue.has_chunk and not queue.exhausted
    queue.push(count(1))
    assert queue.has_chunk


@pytest.mark.parametrize("lookahead_frames", [0, 2])
def test_after_a_cut_the_audio_goes_on_from_there(lookahead_frames: int) -> None:
    queue = AudioQueue(info(lookahead_frames))
    queue.push(count(3 * CHUNK))
    queue.take_start()
    queue.take_chunk()
    queue.ended = True
    queue.cut(10)
    assert not queue.ended and not queue.has_chunk and not queue.exhausted
    assert queue.position_after(10) == (10 + lookahead_frames) * FRAME
    queue.push(count(3 * FRAME))
    queue.ended = True
    _, num_frames = queue.take_chunk()
    assert num_frames == 3 + lookahead_frames and queue.exhausted
    queue.cut(12)
    queue.ended = True
    assert queue.exhausted


def test_a_cut_before_the_start_forgets_all() -> None:
    queue = AudioQueue(info(lookahead_frames=2))
    queue.push(count(FRAME))
    queue.cut(0)
    assert queue.position_after(0) == 0 and not queue.has_start


def test_a_snapshot_has_its_start_already() -> None:
    snapshot = Snapshot(data=b"", num_frames=28, num_samples=30 * FRAME)
    queue = AudioQueue(info(lookahead_frames=2), snapshot)
    assert queue.has_start and queue.take_start().shape == (0,)
    queue.push(count(3 * FRAME))
    queue.ended = True
    assert queue.take_chunk()[1] == 5 and queue.exhausted
