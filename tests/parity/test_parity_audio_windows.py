"""Which speech features each frame reads, streamed and over a whole recording, as in the published code."""

from typing import Any

import torch
from parity_case import Reference
from torch import Tensor

from livetalk.streaming.audio import (
    AudioBuffer,
    AudioConfig,
    audio_context,
    buffer_samples,
    buffer_window_start,
    context_rows,
    whole_num_chunks,
    whole_window_start,
)
from livetalk.streaming.geometry import ChunkGeometry

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
    buffer = AudioBuffer.create(buffer_samples(geometry, audio))
    rows = []
    for start in range(0, num_samples - geometry.chunk_samples + 1, geometry.chunk_samples):
        buffer = buffer.push(samples[start : start + geometry.chunk_samples])
        held = buffer.waveform.nonzero().flatten()
        first, last = buffer.waveform[held[0]], buffer.waveform[held[-1]]
        assert torch.equal(buffer.waveform[held[0] :], torch.arange(first.item(), last.item() + 1))
        rows.append([held[0].item(), first.item() - 1, last.item()])
    return torch.tensor(rows)


def test_parity_audio_windows_geometry() -> None:
    reference = Reference.load(NAME)
    config = reference.meta["config"]
    geometry, audio = read(config, 5)
    start = buffer_window_start(geometry, audio)
    assert geometry.chunk_frames == config["new_frames"]
    assert geometry.chunk_samples == config["slice_samples"]
    assert buffer_samples(geometry, audio) == config["cache_samples"]
    assert (start, start + geometry.window_frames) == (config["audio_start_idx"], config["audio_end_idx"])


def test_parity_audio_windows_streamed() -> None:
    reference = Reference.load(NAME)
    config = reference.meta["config"]
    for name in reference.meta["cases"]:
        case = reference.case(name)
        chunks, frames, window = case["stream.window_index"].shape
        geometry, audio = read(config, window)
        start = buffer_window_start(geometry, audio)
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


def test_parity_audio_windows_whole() -> None:
    reference = Reference.load(NAME)
    config, facts = reference.meta["config"], reference.meta["facts"]
    for name in reference.meta["cases"]:
        assert reference.expected(name) == STREAMED | {"once.window_index"}
        chunks, frames, window = reference.case(name)["once.window_index"].shape
        geometry, audio = read(config, window)
        num_frames = geometry.num_frames(config["once_samples"])
        assert num_frames == facts["once_frames"]
        assert whole_num_chunks(geometry, num_frames) == facts["once_chunks"] + 1
        rows = [
            context_rows(whole_window_start(geometry, chunk), frames, num_frames, audio.context_frames)
            for chunk in range(chunks)
        ]
        reference.check(name, {"once.window_index": torch.stack(rows)})
