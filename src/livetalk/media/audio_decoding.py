"""Audio tracks as NumPy blocks: decoding, removal of encoder padding, resampling.

Shapes: C channels · n samples of a block.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from livetalk.errors import InputError
from livetalk.media.containers import choose_track, open_container, read_origin
from livetalk.media.timeline import TOLERANCE_SECONDS, TimedBlock

_LONGEST_CODEC_FRAME = 2048
"""Samples of the longest AAC frame; an encoder pads the end of a file by fewer."""


@dataclass(frozen=True, slots=True)
class Track:
    """An audio track of a container, see `choose_track`.

    Attributes:
        index: of the track among all tracks of the container.
        origin: time stamp of the start of the recording; None for that of the first decoded sample.
        declared_samples: length without padding and without silence at its start, according to an MP4
            container; the decoder does not know where the padding starts. None for other formats.
    """

    index: int
    sample_rate: int
    origin: Fraction | None
    declared_samples: int | None

    def count_padding(self, num_samples: int) -> int:
        """Return the number of samples that an encoder added at the end of `num_samples` decoded ones."""
        padding = 0 if self.declared_samples is None else num_samples - self.declared_samples
        return padding if 0 < padding < _LONGEST_CODEC_FRAME else 0


def probe_track(path: Path) -> Track:
    """Choose the audio track of a file and read its properties.

    Raises:
        InputError: FFmpeg does not know the format, or no audio track can be decoded.
    """
    with open_container(path, "audio") as container:
        if not container.streams.audio:
            raise InputError(f"audio {path}: has no audio track")
        stream = choose_track(container, container.streams.audio, f"audio {path}")
        if not stream.sample_rate:
            raise InputError(f"audio {path}: its audio track is damaged, it has no sample rate")
        is_mp4 = "mp4" in container.format.name.split(",")
        declared = None
        if is_mp4 and stream.duration and stream.time_base:
            declared = round(stream.duration * stream.time_base * stream.sample_rate)
        return Track(
            index=stream.index,
            sample_rate=stream.sample_rate,
            origin=_find_origin(container, stream),
            declared_samples=declared,
        )


def _find_origin(container: InputContainer, stream: AudioStream) -> Fraction | None:
    """Return the start of the recording; None if the track starts with it."""
    origin = read_origin(container)
    if origin is None or stream.start_time is None or stream.time_base is None:
        return None
    # Some decoders, such as that for WMA, have no output for the first packets, which is no silence.
    late = stream.start_time * stream.time_base - origin
    return None if abs(late) <= TOLERANCE_SECONDS else origin


def decode_blocks(path: Path, index: int) -> Iterator[TimedBlock]:
    """Yield the audio of the track with this index in blocks with their time stamps.

    Packets that cannot be decoded are skipped, as players do.

    Raises:
        InputError: the file cannot be opened or decoded, or its sample rate or channels change midway.
    """
    with open_container(path, "audio") as container:
        # Packed samples, because PyAV reads past the end of planar frames of eight or more channels.
        converter: AudioResampler | None = None
        counts_packets = "avi" in container.format.name.split(",")
        for frame in _decode_frames(container, index, path):
            seconds = None if frame.pts is None or not frame.time_base else frame.pts * frame.time_base
            if converter is None:
                converter = AudioResampler(format="flt", layout=frame.layout, rate=frame.sample_rate)
            elif counts_packets:
                # AVI has no time stamps but the first; FFmpeg's estimates are wrong for many codecs.
                seconds = None
            try:
                converted = converter.resample(frame)
            except ValueError as error:
                raise InputError(f"audio {path}: its format changes midway; convert it to WAV") from error
            for samples in _to_blocks(converted):
                yield TimedBlock(samples, seconds)
                seconds = None


def resample(
    blocks: Iterable[NDArray[np.float32]], source_rate: int, target_rate: int, layout: str
) -> Iterator[NDArray[np.float32]]:
    """Resample blocks [C, n], float32, keeping their timing and the exact total length (rounded up).

    `layout` is FFmpeg's name for the C channels, such as "mono".
    """
    if source_rate == target_rate:
        yield from blocks
        return
    num_channels = 0
    num_source = num_target = 0
    resampler = AudioResampler(format="flt", layout=layout, rate=target_rate)
    for block in blocks:
        num_channels = block.shape[0]
        for resampled in _to_blocks(resampler.resample(as_frame(block, source_rate, layout, num_source))):
            num_target += resampled.shape[1]
            yield resampled
        num_source += block.shape[1]
    # The filter delays its output and would drop the end of the audio; silence flushes it.
    silence = np.zeros((num_channels, source_rate // 10), dtype=np.float32)
    remaining = -(-num_source * target_rate // source_rate) - num_target
    for resampled in _to_blocks(resampler.resample(as_frame(silence, source_rate, layout, num_source))):
        yield resampled[:, :remaining]
        remaining -= min(remaining, resampled.shape[1])


def as_frame(block: NDArray[np.float32], sample_rate: int, layout: str, position: int) -> AudioFrame:
    """Wrap samples [C, n], the first at sample index `position`, in an FFmpeg frame."""
    frame = AudioFrame.from_ndarray(block.T.reshape(1, -1), format="flt", layout=layout)
    frame.sample_rate = sample_rate
    frame.time_base = Fraction(1, sample_rate)
    frame.pts = position
    return frame


def _decode_frames(container: InputContainer, index: int, path: Path) -> Iterator[AudioFrame]:
    if index >= len(container.streams):
        return
    packets = container.demux(container.streams[index])
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            yield from (frame for frame in packet.decode() if isinstance(frame, AudioFrame))
        except av.InvalidDataError:
            continue
        except av.FFmpegError as error:
            raise InputError(f"audio {path}: cannot be decoded ({error.strerror})") from error


def _to_blocks(frames: Iterable[AudioFrame]) -> Iterator[NDArray[np.float32]]:
    for frame in frames:
        packed = frame.to_ndarray().reshape(-1, len(frame.layout.channels))
        yield packed.T.astype(np.float32, copy=False)
