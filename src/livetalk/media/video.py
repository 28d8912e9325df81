"""MP4 output: frames and audio, streamed and of exact length."""

import contextlib
import itertools
import json
import os
import threading
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from numpy.typing import NDArray

from livetalk.errors import OutputError
from livetalk.interruption import uninterrupted
from livetalk.media.audio import SAMPLE_RATE, AudioTrack
from livetalk.media.audio_decoding import as_frame, resample
from livetalk.media.files import PendingFile

_AAC_SAMPLE_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_AAC_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}
_AAC_BITS_PER_SECOND = 96_000
_AAC_BITS_PER_SAMPLE = 4
"""AAC allows at most 6 bits per sample and channel, so low sample rates need less than the usual bit rate."""


def _aac_sample_rate(sample_rate: int) -> int:
    return next((rate for rate in _AAC_SAMPLE_RATES if rate >= sample_rate), _AAC_SAMPLE_RATES[-1])


class _AacEncoder:
    """Encodes an audio track to AAC packets, only as far as requested.

    Sample rates that AAC lacks become the next higher one, channel counts that it lacks become mono.
    """

    def __init__(self, container: OutputContainer, track: AudioTrack) -> None:
        """Add an AAC stream that fits the track to a container."""
        self._rate = _aac_sample_rate(track.sample_rate)
        self._layout = _AAC_LAYOUTS.get(track.num_channels, "mono")
        self._stream: AudioStream = container.add_stream("aac", rate=self._rate, layout=self._layout)
        num_channels = self._stream.codec_context.layout.nb_channels
        self._stream.bit_rate = num_channels * min(_AAC_BITS_PER_SECOND, _AAC_BITS_PER_SAMPLE * self._rate)
        blocks = track.native_blocks()
        if track.num_channels != num_channels:
            blocks = (track.mix(block) for block in blocks)
        self._blocks = resample(blocks, track.sample_rate, self._rate, self._layout)
        self._position = 0

    @property
    def seconds(self) -> Fraction:
        """Length of the audio that was encoded."""
        return Fraction(self._position, self._rate)

    def encode_until(self, seconds: Fraction | None) -> "Iterator[Packet[AudioStream]]":
        """Yield packets up to a time, or, with None, to the end of the track."""
        while seconds is None or self._position < seconds * self._rate:
            block = next(self._blocks, None)
            if block is None:
                break
            frame = as_frame(block, self._rate, self._layout, self._position)
            self._position += block.shape[1]
            yield from self._stream.encode(frame)

    def flush(self) -> "Iterator[Packet[AudioStream]]":
        """Yield the packets that the encoder has buffered; nothing can be encoded afterwards."""
        yield from self._stream.encode(None)


class VideoWriter:
    """Writes an MP4 (H.264 and AAC) that appears under its name only when it is complete.

    Video and audio both start at time 0. Audio is read as frames are written, so that memory does not grow
    with the length. As a context manager it finishes on success and discards on error.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        width: int,
        height: int,
        fps: int = 25,
        audio: AudioTrack | None = None,
        crf: int = 17,
        metadata: Mapping[str, object] | None = None,
        overwrite: bool = False,
    ) -> None:
        """Open a temporary file beside the destination and set up the encoders.

        Width and height must be even. `audio` None writes a video without audio. `crf` is x264's constant
        rate factor, 0 (lossless) to 51; 17 is visually lossless. `metadata` is stored as JSON in the file's
        comment tag. `overwrite` replaces an existing video, see `PendingFile`.

        Raises:
            OutputError: the file cannot be created.
            ValueError: width or height is odd.
        """
        if width % 2 or height % 2:
            raise ValueError(
                f"H.264 with subsampled colour needs an even width and height, not {width}x{height}"
            )
        self._size = (height, width)
        self._fps = fps
        self._num_frames = 0
        self._closed = False
        # A thread may still be writing when an interruption makes another one complete the file.
        self._lock = threading.RLock()
        self._file = PendingFile(path, overwrite=overwrite)
        # The container counts durations in this unit. The audio's own rate makes them exact; with the
        # default of milliseconds a player would cut or pad the audio.
        timescale = SAMPLE_RATE if audio is None else _aac_sample_rate(audio.sample_rate)
        options = {"movflags": "+faststart", "movie_timescale": str(timescale)}
        try:
            self._container = av.open(f"file:{self._file.path}", "w", format="mp4", options=options)
            self._video = self._add_video_stream(crf)
            self._audio = None if audio is None else _AacEncoder(self._container, audio)
        except av.FFmpegError as error:
            raise self._failed(error) from error
        if metadata is not None:
            self._container.metadata["comment"] = json.dumps(metadata)

    @property
    def num_frames(self) -> int:
        """Frames written so far."""
        return self._num_frames

    def write(self, frames: NDArray[np.uint8]) -> None:
        """Append frames [F, H, W, 3], uint8, RGB, and the audio that goes with them.

        Raises:
            OutputError: the file cannot be written; nothing is left behind.
            ValueError: the frames have another size than the video.
        """
        if frames.shape[1:] != (*self._size, 3):
            raise ValueError(f"frames are {frames.shape[1:]}, expected {(*self._size, 3)}")
        try:
            with self._lock:
                for frame in frames:
                    self._write_frame(frame)
        except av.FFmpegError as error:
            raise self._failed(error) from error

    def finish_audio(self) -> Fraction:
        """Write the remaining audio and return the length of all of it in seconds; 0 without audio.

        Raises:
            InputError: the audio can no longer be read.
            OutputError: the file cannot be written; nothing is left behind.
        """
        if self._audio is None:
            return Fraction(0)
        try:
            for packet in self._audio.encode_until(None):
                self._container.mux(packet)
        except av.FFmpegError as error:
            raise self._failed(error) from error
        return self._audio.seconds

    def finish(self) -> Path:
        """Write the remaining audio, complete the file and return its final path.

        Requests to stop are ignored meanwhile.

        Raises:
            OutputError: the file cannot be completed, and nothing is left behind; or it cannot be given its
                name, and stays where the message says.
        """
        with uninterrupted(), self._lock:
            self._close(until=None)
            return self._file.keep()

    def save_partial(self) -> Path | None:
        """Complete the file with the frames so far as `<name>.partial.mp4`; return None if there are none.

        Raises:
            OutputError: as in `finish`.
        """
        with uninterrupted(), self._lock:
            if self._num_frames == 0:
                self.discard()
                return None
            self._close(until=Fraction(self._num_frames, self._fps))
            return self._file.keep(self._file.destination.with_suffix(".partial.mp4"))

    def discard(self) -> None:
        """Remove the unfinished file; it may be called at any time."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            # Errors in the trailer of a discarded file are irrelevant.
            with contextlib.suppress(av.FFmpegError):
                self._container.close()
            self._file.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Finish after success, discard after an error; do nothing if the writer is already closed."""
        if kind is not None:
            self.discard()
        elif not self._closed:
            self.finish()

    def _add_video_stream(self, crf: int) -> VideoStream:
        # One encoder thread, because encoding 256x256 is many times faster than generation, and the cores are
        # needed by the model.
        stream = self._container.add_stream(
            "libx264", rate=self._fps, options={"crf": str(crf), "preset": "medium", "threads": "1"}
        )
        stream.height, stream.width = self._size
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        # Players guess the colour matrix of untagged video from its size.
        context.colorspace = context.color_primaries = context.color_trc = Colorspace.ITU709.value
        context.color_range = ColorRange.MPEG.value
        return stream

    def _write_frame(self, picture: NDArray[np.uint8]) -> None:
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        frame.pts = self._num_frames
        frame.time_base = Fraction(1, self._fps)
        self._num_frames += 1
        self._container.mux(self._video.encode(frame))
        if self._audio is not None:
            for packet in self._audio.encode_until(Fraction(self._num_frames, self._fps)):
                self._container.mux(packet)

    def _close(self, until: Fraction | None) -> None:
        try:
            if self._audio is not None:
                for packet in itertools.chain(self._audio.encode_until(until), self._audio.flush()):
                    self._container.mux(packet)
            self._container.mux(self._video.encode(None))
            self._container.close()
        except av.FFmpegError as error:
            raise self._failed(error) from error
        self._closed = True

    def _failed(self, error: av.FFmpegError) -> OutputError:
        self.discard()
        return self._file.error(OSError(error.errno, error.strerror))
