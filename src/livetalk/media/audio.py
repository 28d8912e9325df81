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
from livetalk.log import get_logger
from livetalk.media.audio_decoding import Track, decode_blocks, probe_track, resample
from livetalk.media.files import require_input_file
from livetalk.media.mixing import ChannelStatistics, find_mix, mix, remove_offsets
from livetalk.media.timeline import SampleClock, TimedBlock, lay_out

SAMPLE_RATE = 16_000
"""Sample rate of the speech encoder, samples per second."""

_logger = get_logger(__name__)


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

    def mix(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the mono mix [1, n] of a block [C, n]."""


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

    def mix(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the mean [1, n] of the channels of a block [C, n]."""
        return np.asarray(samples.mean(axis=0, keepdims=True))


@dataclass(frozen=True, slots=True)
class AudioReader:
    """An audio file that was decoded once from end to end without error; each read decodes it again.

    Attributes:
        num_samples: samples per channel, counted while decoding because containers often round.
        weights: [C], of the channels in the mono mix, see `find_mix`.
        offsets: [C], constant offsets that are removed; empty for none.
        is_timed: the time stamps of the container are plausible and determine where silence is inserted.
    """

    path: Path
    track: Track
    num_samples: int
    weights: tuple[float, ...]
    offsets: tuple[float, ...] = ()
    is_timed: bool = True

    @property
    def sample_rate(self) -> int:
        """Samples per second and channel."""
        return self.track.sample_rate

    @property
    def num_channels(self) -> int:
        """Number of channels C."""
        return len(self.weights)

    @property
    def duration_seconds(self) -> Fraction:
        return Fraction(self.num_samples, self.sample_rate)

    def num_frames(self, fps: int) -> int:
        """Return the number of video frames that cover the audio: ceil(duration * fps)."""
        return -(-self.num_samples * fps // self.sample_rate)

    def native_blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the audio of the file in blocks [C, n], float32, -1..1.

        The blocks total `num_samples` samples, fewer if the file was cut since it was opened.

        Raises:
            InputError: the file changed since it was opened and can no longer be decoded.
        """
        remaining = self.num_samples
        for samples in self._all_blocks():
            yield samples[:, :remaining]
            remaining -= samples.shape[1]
            if remaining <= 0:
                return

    def mix(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the mono mix [1, n] of a block [C, n]."""
        return mix(samples, self.weights)

    def mono_blocks(self, sample_rate: int = SAMPLE_RATE) -> Iterator[NDArray[np.float32]]:
        """Yield the audio as mono at `sample_rate`, in blocks [n], float32.

        The blocks total ceil(num_samples * sample_rate / self.sample_rate) samples and keep the file's
        timing.

        Raises:
            InputError: the file changed since it was opened and can no longer be decoded.
        """
        mono = (self.mix(samples) for samples in self.native_blocks())
        for samples in resample(mono, self.sample_rate, sample_rate, "mono"):
            yield samples[0]

    def _all_blocks(self) -> Iterator[NDArray[np.float32]]:
        blocks = (
            TimedBlock(remove_offsets(block.samples, self.offsets), block.seconds)
            for block in decode_blocks(self.path, self.track.index)
        )
        if self.is_timed:
            return lay_out(blocks, SampleClock(self.sample_rate, self.track.origin))
        return (block.samples for block in blocks)


def open_audio(path: str | os.PathLike[str]) -> AudioReader:
    """Decode the audio track of a file once, to check it and to count its samples.

    The track is the one that a player would play. Padding that an encoder added at either end (MP3, Opus, AAC
    in MP4) is neither counted nor read. Where the container says that nothing was recorded there is silence,
    from its start on; time stamps that cannot be right are ignored, which is logged.

    Raises:
        InputError: the file is missing, unreadable, not a media file, without audio, without a track that can
            be decoded or damaged, or it contains samples that are not finite.
    """
    file = require_input_file(path, "audio")
    track = probe_track(file)
    clock = SampleClock(track.sample_rate, track.origin)
    statistics: ChannelStatistics | None = None
    for block in decode_blocks(file, track.index):
        clock.place(block.seconds, block.samples.shape[1])
        if not np.isfinite(block.samples).all():
            seconds = clock.position / track.sample_rate
            raise InputError(f"audio {file}: contains NaN or infinite samples near {seconds:.2f} s")
        if statistics is None:
            statistics = ChannelStatistics(block.samples.shape[0])
        statistics.add(block.samples)
    if statistics is None or clock.num_decoded == 0:
        raise InputError(f"audio {file}: the audio track holds no sound that can be decoded")
    if not clock.is_plausible:
        _logger.warning("audio %s: its time stamps cannot be right and are ignored", file)
    num_samples = clock.position if clock.is_plausible else clock.num_decoded
    return AudioReader(
        path=file,
        track=track,
        num_samples=num_samples - track.count_padding(clock.num_decoded),
        weights=find_mix(statistics.covariance()),
        offsets=statistics.offsets(),
        is_timed=clock.is_plausible,
    )
