"""The timeline's numbers."""

from typing import Any

import pytest

from livetalk.streaming.geometry import ChunkGeometry


def test_published_numbers() -> None:
    geometry = ChunkGeometry()
    assert geometry.chunk_frames == 28
    assert geometry.samples_per_frame == 640
    assert geometry.chunk_samples == 17_920
    assert geometry.chunk_seconds == pytest.approx(1.12)
    assert geometry.window_latents == 9
    assert [geometry.motion_latents(chunk) for chunk in (0, 1, 2)] == [1, 2, 2]
    assert geometry.dropped_frames == 5


@pytest.mark.parametrize(
    ("num_samples", "frames", "chunks"),
    [(0, 0, 0), (1, 1, 1), (640, 1, 1), (641, 2, 1), (17_919, 28, 1), (17_920, 28, 1), (17_921, 29, 2)],
)
def test_frames_and_chunks_cover_the_audio(num_samples: int, frames: int, chunks: int) -> None:
    geometry = ChunkGeometry()
    assert geometry.num_frames(num_samples) == frames
    assert geometry.num_chunks(num_samples) == chunks


def test_everything_follows_from_the_five_numbers() -> None:
    geometry = ChunkGeometry(fps=20, sample_rate=8000, window_frames=17, motion_frames=3, latent_stride=2)
    assert (geometry.chunk_frames, geometry.chunk_samples) == (14, 5600)
    assert (geometry.window_latents, geometry.motion_latents(1)) == (9, 2)


@pytest.mark.parametrize(
    "numbers",
    [
        {"fps": 0},
        {"fps": 30},
        {"window_frames": 32},
        {"motion_frames": 6},
        {"motion_frames": 33},
        {"motion_frames": 0},
    ],
)
def test_refuses_numbers_that_do_not_fit(numbers: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(numbers))):
        ChunkGeometry(**numbers)
