"""Audio state of a stream (live buffer or complete recording) and the speech features around each frame.

A row is the speech features of one video frame; the results have F frames.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from livetalk.ops.transfer import to_device
from livetalk.streaming.geometry import ChunkGeometry

# A long recording is encoded in sections, which bounds memory and attention cost. The encoder also reads some
# audio on either side, so that features match across borders.
SECTION_SECONDS = 20
SECTION_CONTEXT_SECONDS = 5


@dataclass(frozen=True, slots=True)
class AudioBuffer:
    """The newest audio of a live stream, `[samples]` float32; zeros before the start of the stream."""

    samples: Tensor

    @classmethod
    def create(cls, num_samples: int, device: torch.device | None = None) -> "AudioBuffer":
        return cls(torch.zeros(num_samples, device=device))

    def push(self, samples: Tensor) -> "AudioBuffer":
        """Return the buffer with `samples`, `[n]` of any n, appended and the oldest dropped."""
        samples = to_device(samples.to(self.samples.dtype), self.samples.device)
        return AudioBuffer(torch.cat((self.samples, samples))[-self.samples.shape[0] :])

    def to(self, device: torch.device) -> "AudioBuffer":
        return AudioBuffer(self.samples.to(device))

    @property
    def num_bytes(self) -> int:
        return self.samples.nbytes


@dataclass(frozen=True, slots=True)
class EncodedSection:
    """Speech features `[1, rows, num_blocks, channels]` of a section, whose first row is `first_row`."""

    first_row: int
    features: Tensor


@dataclass(frozen=True, slots=True)
class Recording:
    """A complete recording and the position of a stream in it."""

    samples: Tensor  # `[samples]` float32: silence for the motion frames, audio, silence to a whole chunk
    num_consumed: int = 0
    section: EncodedSection | None = None  # features of the section that was encoded last

    @classmethod
    def create(cls, recording: Tensor, geometry: ChunkGeometry) -> "Recording":
        """Return the start of a recording `[samples]` float32, on the device of the speech encoder."""
        # The published layout starts a recording at the first window, whose motion frames are never shown:
        # leading silence of that length keeps video and audio in sync.
        before = geometry.motion_frames * geometry.samples_per_frame
        after = geometry.num_chunks(recording.shape[0]) * geometry.chunk_samples - recording.shape[0]
        return cls(F.pad(recording, (before, after)))

    def push(self, samples: Tensor) -> "Recording":
        """Advance by one chunk; its samples are already part of the recording."""
        return replace(self, num_consumed=self.num_consumed + 1)

    def read(self, encode: Callable[[Tensor], Tensor], geometry: ChunkGeometry) -> "Recording":
        """Return the recording with the section around its newest window encoded.

        `encode` maps `[1, samples]` to the features of an `AudioEncoder`. `ValueError` before the first chunk
        and after the last.
        """
        num_rows = geometry.num_frames(self.samples.shape[0])
        if not 0 < self.num_consumed <= whole_num_chunks(geometry, num_rows):
            raise ValueError(f"the recording has no chunk {self.num_consumed - 1}")
        middle = whole_window_start(geometry, self.num_consumed - 1) + geometry.window_frames // 2
        first, last = section_bounds(middle, num_rows, geometry.fps)
        # Consecutive windows lie in the same section, which is encoded once.
        if self.section is not None and self.section.first_row == first:
            return self
        span = slice(first * geometry.samples_per_frame, last * geometry.samples_per_frame)
        return replace(self, section=EncodedSection(first, encode(self.samples[None, span])))

    def to(self, device: torch.device) -> "Recording":
        section = self.section
        if section is not None:
            section = EncodedSection(section.first_row, section.features.to(device))
        return replace(self, samples=self.samples.to(device), section=section)

    @property
    def num_bytes(self) -> int:
        return self.samples.nbytes + (0 if self.section is None else self.section.features.nbytes)


def section_bounds(row: int, num_rows: int, fps: int) -> tuple[int, int]:
    """Return the rows (end exclusive) that are encoded together for a window whose middle is `row`."""
    section, context = SECTION_SECONDS * fps, SECTION_CONTEXT_SECONDS * fps
    if num_rows <= section + 2 * context:
        return 0, num_rows
    # A fixed grid, so that consecutive windows share a section.
    start = row // section * section
    return max(0, start - context), min(num_rows, start + section + context)


def recorded_context(recording: Recording, geometry: ChunkGeometry, context_frames: int) -> Tensor:
    """Return what `audio_context` does, for the newest window that `Recording.read` has encoded."""
    if recording.section is None:
        raise ValueError("encode the recording's section with Recording.read first")
    num_rows = geometry.num_frames(recording.samples.shape[0])
    start = whole_window_start(geometry, recording.num_consumed - 1)
    rows = context_rows(start, geometry.window_frames, num_rows, context_frames)
    features = recording.section.features
    return features[:, to_device(rows - recording.section.first_row, features.device)]


def whole_window_start(geometry: ChunkGeometry, chunk_index: int) -> int:
    """Return the feature row of a complete recording that belongs to the first frame of a window."""
    # The published offline mode starts the recording with the first window, motion frames included.
    return chunk_index * geometry.chunk_frames


def whole_num_chunks(geometry: ChunkGeometry, num_frames: int) -> int:
    """Return the number of windows in `num_frames` of a recording; the published code has one fewer."""
    return max(0, (num_frames - geometry.motion_frames) // geometry.chunk_frames)


def context_rows(start: int, num_frames: int, num_rows: int, context_frames: int) -> Tensor:
    """Return the feature rows around each frame from row `start` on, `[F, 2 * context_frames + 1]` int64."""
    # Frames at either end repeat the first or the last row that exists.
    frames = torch.arange(start, start + num_frames)
    return (frames[:, None] + torch.arange(-context_frames, context_frames + 1)).clamp(0, num_rows - 1)


def audio_context(features: Tensor, start: int, num_frames: int, context_frames: int) -> Tensor:
    """Gather features around each frame: `[B, F, 2 * context_frames + 1, num_blocks, channels]`.

    `features` is `[B, rows, num_blocks, channels]`; `start` is the row of the window's first frame.
    """
    rows = context_rows(start, num_frames, features.shape[1], context_frames)
    return features[:, to_device(rows, features.device)]
