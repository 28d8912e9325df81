"""The rolling audio and the features around each frame, streamed and whole."""

import pytest
import torch

from livetalk.streaming.audio import (
    AudioBuffer,
    audio_context,
    context_rows,
    whole_num_chunks,
)
from livetalk.streaming.geometry import ChunkGeometry
from livetalk.streaming.settings import AudioConfig, StreamSettings
from tiny import FrameEncoder
from tolerance import assert_near, rounding

GEOMETRY = ChunkGeometry(window_frames=13)


def test_buffer_rolls() -> None:
    buffer = AudioBuffer.create(6)
    first = buffer.push(torch.tensor([1.0, 2.0]))
    second = first.push(torch.tensor([3.0, 4.0, 5.0]))
    third = second.push(torch.arange(10, 19))
    assert buffer.samples.tolist() == [0] * 6
    assert first.samples.tolist() == [0, 0, 0, 0, 1, 2]
    assert second.samples.tolist() == [0, 1, 2, 3, 4, 5]
    assert third.samples.tolist() == [13, 14, 15, 16, 17, 18]
    assert third.num_bytes == 24 and third.samples.dtype == torch.float32


def test_rows_are_clamped() -> None:
    assert context_rows(0, 2, 10, 2).tolist() == [[0, 0, 0, 1, 2], [0, 0, 1, 2, 3]]
    assert context_rows(8, 2, 10, 1).tolist() == [[7, 8, 9], [8, 9, 9]]


@pytest.mark.parametrize("lookahead", [0, 1, 2, 4])
def test_streamed_windows_equal_the_batch(lookahead: int) -> None:
    config = AudioConfig(buffer_seconds=1, lookahead_frames=lookahead)
    settings = StreamSettings(geometry=GEOMETRY, audio=config)
    encoder, samples = FrameEncoder(), GEOMETRY.samples_per_frame
    rng = torch.Generator().manual_seed(0)
    audio = torch.randn((6 * GEOMETRY.chunk_frames + lookahead) * samples, generator=rng)
    whole = encoder(audio[None])
    buffer = AudioBuffer.create(settings.buffer_samples).push(audio[: lookahead * samples])
    num_rows = config.buffer_seconds * GEOMETRY.fps
    # Without enough look-ahead the last frames' context repeats the newest row instead of the future.
    exact = GEOMETRY.window_frames - max(0, config.context_frames - lookahead)
    for chunk in range(6):
        start = lookahead * samples + chunk * GEOMETRY.chunk_samples
        buffer = buffer.push(audio[start : start + GEOMETRY.chunk_samples])
        features = encoder(buffer.samples[None])
        assert features.shape[1] == num_rows
        streamed = audio_context(
            features,
            settings.buffer_window_start,
            GEOMETRY.window_frames,
            2,
        )
        if chunk < 2:
            continue
        first = chunk * GEOMETRY.chunk_frames - GEOMETRY.motion_frames
        batch = audio_context(whole, first, GEOMETRY.window_frames, 2)
        assert_near(streamed[:, :exact], batch[:, :exact], rounding(640))
        if exact < GEOMETRY.window_frames:
            assert torch.equal(streamed[0, -1, -1], streamed[0, -1, 2 + lookahead])


def test_whole_recordings_are_cut_without_losing_one() -> None:
    geometry = ChunkGeometry()
    assert [whole_num_chunks(geometry, frames) for frames in (0, 32, 33, 60, 61, 150)] == [0, 0, 1, 1, 2, 5]


def test_refuses_a_buffer_shorter_than_its_window() -> None:
    StreamSettings(audio=AudioConfig(buffer_seconds=2, lookahead_frames=17))
    with pytest.raises(ValueError, match="buffer_seconds 2 cannot hold"):
        StreamSettings(audio=AudioConfig(buffer_seconds=2, lookahead_frames=18))
