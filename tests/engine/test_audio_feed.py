"""The feed gives the engine whole pieces, whatever the blocks, and every sample exactly once."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from livetalk.engine.audio_feed import AudioFeed
from livetalk.streaming.geometry import ChunkGeometry

GEOMETRY = ChunkGeometry()
CHUNK = GEOMETRY.chunk_samples
FRAME = GEOMETRY.samples_per_frame


def blocks(num_samples: int, size: int) -> list[NDArray[np.float32]]:
    sound = np.arange(1, num_samples + 1, dtype=np.float32)
    return [sound[start : start + size] for start in range(0, num_samples, size)]


@pytest.mark.parametrize("lookahead_frames", [0, 3, 28, 40])
@pytest.mark.parametrize("size", [1_000, CHUNK, 100_000])
@pytest.mark.parametrize("num_samples", [1, 640, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 700])
def test_all_sound_is_fed_once_and_in_order(num_samples: int, size: int, lookahead_frames: int) -> None:
    feed = AudioFeed(blocks(num_samples, size), GEOMETRY, lookahead_frames)
    pieces = list(feed)
    assert sum(piece.num_frames for piece in pieces) == GEOMETRY.num_frames(num_samples)
    assert all(piece.num_frames == GEOMETRY.chunk_frames for piece in pieces[:-1])
    assert all(piece.samples.shape == (CHUNK,) for piece in pieces)
    lead = np.zeros(lookahead_frames * FRAME, np.float32)
    lead[: feed.lead.shape[0]] = feed.lead
    fed = np.concatenate([lead, *(piece.samples for piece in pieces)])
    assert np.array_equal(fed[:num_samples], np.arange(1, num_samples + 1, dtype=np.float32))
    assert not fed[num_samples:].any()


def test_no_sound_gives_no_pieces() -> None:
    assert list(AudioFeed([], GEOMETRY, 4)) == []
    assert list(AudioFeed([np.zeros(0, np.float32)], GEOMETRY, 0)) == []


def test_a_piece_is_given_as_soon_as_its_sound_is_there() -> None:
    asked = 0

    def live() -> Iterator[NDArray[np.float32]]:
        nonlocal asked
        while True:
            asked += 1
            yield np.zeros(FRAME, np.float32)

    pieces = iter(AudioFeed(live(), GEOMETRY, 2))
    next(pieces)
    assert asked == 2 + GEOMETRY.chunk_frames
    next(pieces)
    assert asked == 2 + 2 * GEOMETRY.chunk_frames


def test_stereo_is_refused() -> None:
    with pytest.raises(ValueError, match="one channel"):
        AudioFeed([np.zeros((2, 100), np.float32)], GEOMETRY, 1)
