"""What a stream hears: the end of a live sound or a whole recording, and the speech around each frame.

Shapes: B batch · F frames.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from livetalk.ops.transfer import to_device
from livetalk.streaming.geometry import ChunkGeometry

PIECE_SECONDS = 20
"""A long recording is encoded in pieces of this length, so that memory and attention do not grow with it."""

MARGIN_SECONDS = 5
"""What the encoder hears of the recording on either side of a piece."""


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
        samples = to_device(samples.to(self.waveform.dtype), self.waveform.device)
        return AudioBuffer(torch.cat((self.waveform, samples))[-self.waveform.shape[0] :])

    def to(self, device: torch.device) -> "AudioBuffer":
        """Return the buffer on a device."""
        return AudioBuffer(self.waveform.to(device))

    @property
    def num_bytes(self) -> int:
        """Size in bytes."""
        return self.waveform.nbytes


@dataclass(frozen=True, slots=True)
class RecordedPiece:
    """Speech features of a piece of a recording.

    Attributes:
        first_row: row of the recording that the first of them belongs to.
        features: `[1, rows, num_blocks, channels]`.
    """

    first_row: int
    features: Tensor


@dataclass(frozen=True, slots=True)
class Recording:
    """A place in a whole recording: what `AudioBuffer` is to a live sound.

    Attributes:
        waveform: `[samples]` float32: silence for the motion frames, the sound, silence up to a whole chunk.
        num_heard: chunks that were heard.
        piece: features of the piece that was read last.
    """

    waveform: Tensor
    num_heard: int = 0
    piece: RecordedPiece | None = None

    @classmethod
    def create(cls, sound: Tensor, geometry: ChunkGeometry) -> "Recording":
        """Return the start of a recording `[samples]` float32, on the device of the speech encoder."""
        # The published layout starts a recording at the first window, whose motion frames are never shown:
        # that much silence before it keeps picture and sound together.
        before = geometry.motion_frames * geometry.samples_per_frame
        after = geometry.num_chunks(sound.shape[0]) * geometry.chunk_samples - sound.shape[0]
        return cls(F.pad(sound, (before, after)))

    def push(self, samples: Tensor) -> "Recording":
        """Move on by a chunk; its samples are already part of the recording."""
        return replace(self, num_heard=self.num_heard + 1)

    def read(self, encode: Callable[[Tensor], Tensor], geometry: ChunkGeometry) -> "Recording":
        """Return this place with the piece around its newest window encoded, if it was not.

        Args:
            encode: `[1, samples]` to the features of an `AudioEncoder`.
            geometry: timeline of the stream.

        Raises:
            ValueError: nothing was heard yet, or the recording has ended.
        """
        num_rows = geometry.num_frames(self.waveform.shape[0])
        if not 0 < self.num_heard <= whole_num_chunks(geometry, num_rows):
            raise ValueError(f"the recording has no chunk {self.num_heard - 1}")
        middle = whole_window_start(geometry, self.num_heard - 1) + geometry.window_frames // 2
        first, last = piece_bounds(middle, num_rows, geometry.fps)
        if self.piece is not None and self.piece.first_row == first:
            return self
        span = slice(first * geometry.samples_per_frame, last * geometry.samples_per_frame)
        return replace(self, piece=RecordedPiece(first, encode(self.waveform[None, span])))

    def to(self, device: torch.device) -> "Recording":
        """Return the recording on a device."""
        piece = self.piece
        if piece is not None:
            piece = RecordedPiece(piece.first_row, piece.features.to(device))
        return replace(self, waveform=self.waveform.to(device), piece=piece)

    @property
    def num_bytes(self) -> int:
        """Size in bytes."""
        return self.waveform.nbytes + (0 if self.piece is None else self.piece.features.nbytes)


def piece_bounds(row: int, num_rows: int, fps: int) -> tuple[int, int]:
    """Return the first row, and the one after the last, that are encoded together for a window around `row`.

    A recording of up to a piece and its margins is encoded at once.

    Args:
        row: in the middle of the window.
        num_rows: rows of the recording.
        fps: rows per second.
    """
    piece, margin = PIECE_SECONDS * fps, MARGIN_SECONDS * fps
    if num_rows <= piece + 2 * margin:
        return 0, num_rows
    start = row // piece * piece
    return max(0, start - margin), min(num_rows, start + piece + margin)


def recorded_context(recording: Recording, geometry: ChunkGeometry, context_frames: int) -> Tensor:
    """Gather the features around each frame of a recording's newest window.

    Args:
        recording: after `Recording.read`.
        geometry: timeline of the stream.
        context_frames: rows on each side of a frame.

    Returns:
        `[1, F, 2 * context_frames + 1, num_blocks, channels]`.

    Raises:
        ValueError: the piece was not read.
    """
    if recording.piece is None:
        raise ValueError("read the recording's piece first")
    num_rows = geometry.num_frames(recording.waveform.shape[0])
    start = whole_window_start(geometry, recording.num_heard - 1)
    rows = context_rows(start, geometry.window_frames, num_rows, context_frames)
    features = recording.piece.features
    return features[:, to_device(rows - recording.piece.first_row, features.device)]


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
    return features[:, to_device(rows, features.device)]
