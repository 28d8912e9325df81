"""Audio of any file that FFmpeg reads, streamed and of exact length.

Shapes: C channels · N samples · n samples of a block.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from livetalk.errors import InputError
from livetalk.media.audio_decoding import decode_blocks, probe_track, resample
from livetalk.media.files import require_input_file

SAMPLE_RATE = 16_000
"""Sample rate of the speech encoder, samples per second."""

_SILENT_CHANNEL_RATIO = 1e-4
"""A channel below this share of the loudest channel's energy (-40 dB) counts as silent."""


class AudioTrack(Protocol):
    """Audio that can be read from its start, at its own sample rate and with its own channels."""

    @property
    def sample_rate(self) -> int:
        """Samples per second and channel."""

    @property
    def num_channels(self) -> int:
        """Number of channels."""

    def native_blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the audio in blocks [C, n], float32, -1..1."""


@dataclass(frozen=True, slots=True)
class ArrayAudio:
    """Audio held in memory: `samples` is [C, N], float32, -1..1."""

    samples: NDArray[np.float32]
    sample_rate: int = SAMPLE_RATE

    @property
    def num_channels(self) -> int:
        return int(self.samples.shape[0])

    def native_blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield all samples as one block [C, N]."""
        yield self.samples


@dataclass(frozen=True, slots=True)
class AudioReader:
    """An audio file that was decoded once from end to end without error; each read decodes it again.

    Attributes:
        num_samples: samples per channel, counted while decoding because containers often round.
        active_channels: channels that are not silent. Only these are averaged to mono, so that a voice in one
            of many channels keeps its level.
    """

    path: Path
    sample_rate: int
    num_channels: int
    num_samples: int
    active_channels: tuple[int, ...]

    @property
    def duration_seconds(self) -> Fraction:
        return Fraction(self.num_samples, self.sample_rate)

    def num_frames(self, fps: int) -> int:
        """Return the number of video frames that cover the audio: ceil(duration * fps)."""
        return -(-self.num_samples * fps // self.sample_rate)

    def native_blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the audio of the file in blocks [C, n], float32, -1..1.

        Raises:
            InputError: the file changed since it was opened and can no longer be decoded.
        """
        remaining = self.num_samples
        for block in decode_blocks(self.path):
            yield block[:, :remaining]
            remaining -= block.shape[1]
            if remaining <= 0:
                return

    def mono_blocks(self, sample_rate: int = SAMPLE_RATE) -> Iterator[NDArray[np.float32]]:
        """Yield the audio as mono at `sample_rate`, in blocks [n], float32.

        The blocks total ceil(num_samples * sample_rate / self.sample_rate) samples and keep the file's
        timing.

        Raises:
            InputError: the file changed since it was opened and can no longer be decoded.
        """
        channels = list(self.active_channels)
        mono = (block[channels].mean(axis=0, keepdims=True) for block in self.native_blocks())
        for block in resample(mono, self.sample_rate, sample_rate, "mono"):
            yield block[0]


def open_audio(path: str | os.PathLike[str]) -> AudioReader:
    """Decode the first audio track of a file once, to check it and to count its samples.

    Padding that an encoder added at either end (MP3, Opus, AAC in MP4) is neither counted nor read.

    Raises:
        InputError: the file is missing, unreadable, not a media file, without audio or damaged, or it
            contains samples that are not finite.
    """
    file = require_input_file(path, "audio")
    track = probe_track(file)
    num_samples = 0
    energy: NDArray[np.float64] | None = None
    for block in decode_blocks(file):
        if not np.isfinite(block).all():
            raise InputError(
                f"audio {file}: contains NaN or infinite samples near {num_samples / track.sample_rate:.2f} s"
            )
        block_energy = np.square(block, dtype=np.float64).sum(axis=1)
        energy = block_energy if energy is None else energy + block_energy
        num_samples += block.shape[1]
    if energy is None or num_samples == 0:
        raise InputError(f"audio {file}: the audio track holds no sound that can be decoded")
    active = np.flatnonzero(energy >= _SILENT_CHANNEL_RATIO * energy.max())
    return AudioReader(
        path=file,
        sample_rate=track.sample_rate,
        num_channels=int(energy.shape[0]),
        num_samples=track.without_padding(num_samples),
        active_channels=tuple(int(channel) for channel in active),
    )
