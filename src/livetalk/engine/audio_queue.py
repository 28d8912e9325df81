"""The audio of a stream: clients push blocks of any length, the engine takes chunks.

Positions are samples since the start of the stream. With a look-ahead of L frames the speech encoder is
L frames ahead of the video: the state first reads a lead of L frames, and each chunk then reads its samples
L frames later.
"""

import numpy as np
from numpy.typing import NDArray

from livetalk.engine.messages import Snapshot, StreamInfo
from livetalk.streaming.settings import AudioMode


class AudioQueue:
    """Audio that was pushed and not yet taken; `ended` means that no more follows."""

    def __init__(self, info: StreamInfo, snapshot: Snapshot | None = None) -> None:
        """Start empty, at the position of the snapshot if there is one."""
        self._info = info
        self._whole = info.audio_mode is AudioMode.WHOLE
        self._lookahead = 0 if self._whole else info.lookahead_frames * info.samples_per_frame
        self._blocks: list[NDArray[np.float32]] = []
        self._num_waiting = 0
        self._num_pushed = 0
        self._started = snapshot is not None
        self._position = 0 if snapshot is None else snapshot.num_frames * info.samples_per_frame
        self._taken = 0 if snapshot is None else snapshot.num_samples
        self.ended = False

    @property
    def exhausted(self) -> bool:
        """Whether the audio has ended and every chunk of it was taken."""
        # All samples may be taken and one chunk still be due: the one whose look-ahead they were.
        over = self._num_pushed == 0 or self._taken <= self._position
        return self.ended and self._num_waiting == 0 and over

    @property
    def has_start(self) -> bool:
        """Whether `take_start` can return its audio."""
        live = not self._whole and self._num_waiting >= self._lookahead
        return self._started or self.ended or live

    @property
    def has_chunk(self) -> bool:
        """Whether `take_chunk` can return a chunk."""
        return self._num_waiting >= self._info.chunk_samples or (self.ended and not self.exhausted)

    def push(self, samples: NDArray[np.float32]) -> None:
        """Append samples `[n]` float32."""
        self._blocks.append(samples)
        self._num_waiting += samples.shape[0]
        self._num_pushed += samples.shape[0]

    def take_start(self) -> NDArray[np.float32]:
        """Return the audio that the first state needs: a lead, or the whole recording, which stays queued."""
        if self._started:
            return np.zeros(0, np.float32)
        self._started = True
        # Where the audio has ended already, the lead is shorter than the look-ahead.
        return self._join() if self._whole else self._take(self._lookahead)

    def take_chunk(self) -> tuple[NDArray[np.float32], int]:
        """Return the samples of the next chunk, `[chunk_samples]`, and the number of frames they cover."""
        size, per_frame = self._info.chunk_samples, self._info.samples_per_frame
        samples = self._take(size)
        # A started frame counts: the last frame is shown even if the audio ends within it.
        num_frames = -(-(self._taken - self._position) // per_frame)
        self._position += size
        # Silence after the end of the audio.
        padded = np.pad(samples, (0, size - samples.shape[0]))
        return padded, min(num_frames, self._info.chunk_frames)

    def position_after(self, num_frames: int) -> int:
        """Return the position of the first sample that the state after `num_frames` frames has not read."""
        return num_frames * self._info.samples_per_frame + (self._lookahead if self._started else 0)

    def cut(self, num_frames: int) -> None:
        """Discard all audio after `num_frames` frames, queued audio included, and accept more."""
        self._blocks, self._num_waiting, self._num_pushed, self.ended = [], 0, 0, False
        self._position = num_frames * self._info.samples_per_frame
        self._taken = self.position_after(num_frames)

    def _take(self, num_samples: int) -> NDArray[np.float32]:
        joined = self._join()
        taken = joined[:num_samples]
        self._blocks = [joined[num_samples:]]
        self._num_waiting -= taken.shape[0]
        self._taken += taken.shape[0]
        return taken

    def _join(self) -> NDArray[np.float32]:
        if len(self._blocks) != 1:
            self._blocks = [np.concatenate([np.zeros(0, np.float32), *self._blocks])]
        return self._blocks[0]
