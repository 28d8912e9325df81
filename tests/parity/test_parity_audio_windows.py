"""Which speech features each frame reads, streamed and over a whole recording, as in the published code."""

from typing import Any

import pytest
import torch
from parity_case import Reference
from torch import Tensor

from livetalk.streaming.audio import (
    AudioBuffer,
    audio_context,
    context_rows,
    whole_num_chunks,
    whole_window_start,
)
from livetalk.streaming.geometry import ChunkGeometry
from livetalk.streaming.settings import AudioConfig, StreamSettings

NAME = "audio_windows"
STREAMED = {"stream.window_index", "stream.cache_layout", "random.windows"}


def read(config: dict[str, Any], window: int) -> tuple[ChunkGeometry, AudioConfig]:
    """Translate the configuration of the reference; `window` is the number of features around a frame."""
    geometry = ChunkGeometry(
        fps=config["fps"],
        sample_rate=config["sample_rate"],
        window_frames=config["frame_num"],
        motion_frames=config["motion_frames"],
    )
    return geometry, AudioConfig(buffer_seconds=config["cached_seconds"], context_frames=window // 2)


def stream_layout(geometry: ChunkGeometry, audio: AudioConfig, num_samples: int) -> Tensor:
    """Stream samples valued by their index, and find where they lie after each chunk: `[chunks, 3]`."""
    samples = torch.arange(1, num_samples + 1, dtype=torch.float32)
    buffer = AudioBuffer.create(StreamSettings(geometry=geometry, audio=audio).buffer_samples)
    rows = []
    for start in range(0, num_samples - geometry.chunk_samples + 1, geometry.chunk_samples):
        buffer = buffer.push(samples[start : start + geometry.chunk_samples])
        held = buffer.samples.nonzero().flatten()
        first, last = buffer.samples[held[0]], buffer.samples[held[-1]]
        assert torch.equal(buffer.samples[held[0] :], torch.arange(first.item(), last.item() + 1))
        rows.append([held[0].item(), first.item() - 1, last.item()])
    return torch.tensor(rows)


def test_parity_audio_windows_geometry() -> None:
    reference = Reference.load(NAME)
    config = reference.meta["config"]
    geometry, audio = read(config, 5)
    start = StreamSettings(geometry=geometry, audio=audio).buffer_window_start
    assert geometry.chunk_frames == config["new_frames"]
    assert geometry.chunk_samples == config["slice_samples"]
    assert StreamSettings(geometry=geometry, audio=audio).buffer_samples == config["cache_samples"]
    assert (start, start + geometry.window_frames) == (config["audio_start_idx"], config["audio_end_idx"])


def test_parity_audio_windows_streamed() -> None:
    reference = Reference.load(NAME)
    config = reference.meta["config"]
    for name in reference.meta["cases"]:
        case = reference.case(name)
        chunks, frames, window = case["stream.window_index"].shape
        geometry, audio = read(config, window)
        start = StreamSettings(geometry=geometry, audio=audio).buffer_window_start
        rows = context_rows(start, frames, config["audio_end_idx"], audio.context_frames)
        context = audio_context(case["random.features"], start, geometry.window_frames, audio.context_frames)
        layout = stream_layout(geometry, audio, config["samples"])
        got = {
            "stream.window_index": rows.expand(chunks, -1, -1),
            "stream.cache_layout": layout,
            "random.windows": context,
        }
        assert set(got) == STREAMED
        reference.check(name, got)


def whole_rows(config: dict[str, Any], num_samples: int, shape: torch.Size) -> Tensor:
    """Return the rows that the first chunks of a recording read, `[chunks, frames, window]`."""
    chunks, frames, window = shape
    geometry, audio = read(config, window)
    num_rows = geometry.num_frames(num_samples)
    starts = [whole_window_start(geometry, chunk) for chunk in range(chunks)]
    return torch.stack([context_rows(start, frames, num_rows, audio.context_frames) for start in starts])


def published_num_frames(config: dict[str, Any], num_samples: int) -> int:
    """Return the frames of a recording in the published code: the frame that has only begun does not count.

    Here it does count (`ChunkGeometry.num_frames`), so that the end of a recording is not lost.
    """
    frames: int = num_samples * config["fps"] // config["sample_rate"]
    return frames


def test_parity_audio_windows_whole() -> None:
    reference = Reference.load(NAME)
    config, facts = reference.meta["config"], reference.meta["facts"]
    num_samples = config["once_samples"]
    assert facts["once_frames"] == published_num_frames(config, num_samples)
    for name in reference.meta["cases"]:
        assert reference.expected(name) == STREAMED | {"once.window_index"}
        shape = reference.case(name)["once.window_index"].shape
        geometry, _ = read(config, shape[-1])
        assert shape[0] == facts["once_chunks"] < whole_num_chunks(geometry, geometry.num_frames(num_samples))
        reference.check(name, {"once.window_index": whole_rows(config, num_samples, shape)})


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_parity_audio_windows_whole_with_a_frame_that_has_only_begun(part: float) -> None:
    reference = Reference.load(NAME)
    config = reference.meta["config"]
    per_frame = config["sample_rate"] // config["fps"]
    num_samples = config["once_samples"] // per_frame * per_frame + int(part * per_frame)
    for name in reference.meta["cases"]:
        published = reference.case(name)["once.window_index"]
        # The published windows end before the recording does, however its end is counted.
        assert published.max() < published_num_frames(config, num_samples) - 1
        reference.check(name, {"once.window_index": whole_rows(config, num_samples, published.shape)})
