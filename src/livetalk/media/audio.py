"""Sound out of any file FFmpeg reads: streamed, of exact length."""

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
"""Samples per second of the sound that the speech encoder hears."""

_SILENT_CHANNEL_RATIO = 1e-4
"""A channel with less than this share of the loudest channel's energy carries no voice (-40 dB)."""


class AudioTrack(Protocol):
    """A sound that can be read from its start, in its own sample rate and channels."""

    @property
    def sample_rate(self) -> int:
        """Samples per second and channel."""

    @property
    def num_channels(self) -> int:
        """Number of channels."""

    def native_blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the sound in pieces [C, n], float32, full scale -1..1."""


@dataclass(frozen=True, slots=True)
class ArrayAudio:
    """A sound held in memory.

    Attributes:
        samples: [C, N], float32, full scale -1..1.
        sample_rate: samples per second.
    """

    samples: NDArray[np.float32]
    sample_rate: int = SAMPLE_RATE

    @property
    def num_channels(self) -> int:
        """Number of channels C."""
        return int(self.samples.shape[0])

    def native_blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the whole sound as one piece [C, N]."""
        yield self.samples


@dataclass(frozen=True, slots=True)
class AudioReader:
    """A sound file that was decoded once from end to end and found good; reading it again is streamed.

    Attributes:
        path: the audio or video file.
        sample_rate: its samples per second.
        num_channels: its channels C.
        num_samples: samples per channel, counted while decoding (containers often round).
        active_channels: the channels that carry sound. The rest is left out of the mono mix, so that a
            voice in one channel of many is as loud as the same voice alone.
    """

    path: Path
    sample_rate: int
    num_channels: int
    num_samples: int
    active_channels: tuple[int, ...]

    @property
    def duration_seconds(self) -> Fraction:
        """Exact length in seconds."""
        return Fraction(self.num_samples, self.sample_rate)

    def num_frames(self, fps: int) -> int:
        """Return how many video frames cover the whole sound: ceil(duration * fps)."""
        return -(-self.num_samples * fps // self.sample_rate)

    def native_blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the sound as it is in the file, in pieces [C, n], float32, full scale -1..1.

        Raises:
            InputError: the file changed since it was opened and cannot be decoded any more.
        """
        remaining = self.num_samples
        for block in decode_blocks(self.path):
            yield block[:, :remaining]
            remaining -= block.shape[1]
            if remaining <= 0:
                return

    def mono_blocks(self, sample_rate: int = SAMPLE_RATE) -> Iterator[NDArray[np.float32]]:
        """Yield the sound mixed to one channel at another rate, in pieces [n], float32.

        The pieces add up to ceil(num_samples * sample_rate / self.sample_rate) samples, and a sound at
        t seconds in the file is at t seconds here.

        Args:
            sample_rate: samples per second to convert to.

        Raises:
            InputError: the file changed since it was opened and cannot be decoded any more.
        """
        channels = list(self.active_channels)
        mono = (block[channels].mean(axis=0, keepdims=True) for block in self.native_blocks())
        for block in resample(mono, self.sample_rate, sample_rate, "mono"):
            yield block[0]


def open_audio(path: str | os.PathLike[str]) -> AudioReader:
    """Decode the first audio track of a file once, to check it and to learn its exact length.

    Padding that an encoder added at either end (MP3, Opus, AAC in MP4) is not counted and not read.

    Args:
        path: any audio or video file that FFmpeg reads.

    Raises:
        InputError: the file is missing, unreadable, not a media file, without sound or damaged, or its
            samples are not finite numbers.
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
