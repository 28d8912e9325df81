"""Rolling waveform of a stream, and the speech features around each frame of a window.

Shapes: B batch · F frames.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from livetalk.streaming.geometry import ChunkGeometry


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioConfig:
    """Which audio a window sees.

    Attributes:
        buffer_seconds: how much of the stream's end the speech encoder reads.
        context_frames: speech frames read on each side of a video frame.
        lookahead_frames: frames of audio after a chunk's end that the encoder already hears; the stream
            answers that much later.
    """

    buffer_seconds: int = 8
    context_frames: int = 2
    lookahead_frames: int = 0


@dataclass(frozen=True, slots=True)
class AudioBuffer:
    """The last seconds of a stream.

    Attributes:
        waveform: `[samples]` float32; zeros where the stream had not begun.
    """

    waveform: Tensor

    @classmethod
    def create(cls, num_samples: int, device: torch.device | None = None) -> "AudioBuffer":
        """Return a buffer of `num_samples` zeros."""
        return cls(torch.zeros(num_samples, device=device))

    def push(self, samples: Tensor) -> "AudioBuffer":
        """Return the buffer after `samples` (`[n]`, any n) arrived: as much of the end as fits."""
        samples = samples.to(self.waveform)
        return AudioBuffer(torch.cat((self.waveform, samples))[-self.waveform.shape[0] :])

    @property
    def num_bytes(self) -> int:
        """Size in bytes."""
        return self.waveform.nbytes


def buffer_samples(geometry: ChunkGeometry, config: AudioConfig) -> int:
    """Return the samples that the rolling buffer holds.

    Raises:
        ValueError: the buffer is shorter than a window with its look-ahead.
    """
    if config.buffer_seconds * geometry.fps < geometry.window_frames + config.lookahead_frames:
        raise ValueError(
            f"buffer_seconds {config.buffer_seconds} cannot hold a window of {geometry.window_frames} frames"
            f" and a look-ahead of {config.lookahead_frames}"
        )
    return config.buffer_seconds * geometry.sample_rate


def buffer_window_start(geometry: ChunkGeometry, config: AudioConfig) -> int:
    """Return the row of the buffer's features that belongs to the first frame of a window."""
    return config.buffer_seconds * geometry.fps - config.lookahead_frames - geometry.window_frames


def whole_window_start(geometry: ChunkGeometry, chunk_index: int) -> int:
    """Return the row of a whole recording's features for the first frame of a window.

    In this published offline mode the recording starts with the first window, motion frames included.
    """
    return chunk_index * geometry.chunk_frames


def whole_num_chunks(geometry: ChunkGeometry, num_frames: int) -> int:
    """Return how many windows fit into `num_frames` of a recording (the published code makes one fewer)."""
    return max(0, (num_frames - geometry.motion_frames) // geometry.chunk_frames)


def context_rows(start: int, num_frames: int, num_rows: int, context_frames: int) -> Tensor:
    """List the feature rows around each frame of a window.

    Args:
        start: row of the first frame.
        num_frames: frames F of the window.
        num_rows: rows there are; rows outside are clamped to the first and the last.
        context_frames: rows on each side of a frame.

    Returns:
        `[F, 2 * context_frames + 1]` int64.
    """
    frames = torch.arange(start, start + num_frames)
    return (frames[:, None] + torch.arange(-context_frames, context_frames + 1)).clamp(0, num_rows - 1)


def audio_context(features: Tensor, start: int, num_frames: int, context_frames: int) -> Tensor:
    """Gather the features around each frame of a window.

    Args:
        features: `[B, rows, num_blocks, channels]`, one row per frame.
        start: row of the window's first frame.
        num_frames: frames F of the window.
        context_frames: rows on each side of a frame.

    Returns:
        `[B, F, 2 * context_frames + 1, num_blocks, channels]`.
    """
    rows = context_rows(start, num_frames, features.shape[1], context_frames)
    return features[:, rows.to(features.device)]
