"""Frames of a video file by their time stamps, one at a time."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from livetalk.errors import InputError
from livetalk.media.containers import choose_track, open_container, read_origin
from livetalk.media.files import require_input_file

_LONGEST_STILL_SECONDS = 600
"""A larger step between time stamps is a defect."""

_DEFAULT_RATE = Fraction(25)


@dataclass(frozen=True, slots=True, eq=False)
class TimedFrame:
    """A frame of a file.

    Attributes:
        pixels: [H, W, 3], uint8, RGB, rotated as the file demands.
        seconds: from the start of the recording to its appearance.
        period: usual duration of a frame in this file, seconds.
    """

    pixels: NDArray[np.uint8]
    index: int
    seconds: Fraction
    period: Fraction


def read_frames(path: str | os.PathLike[str]) -> Iterator[TimedFrame]:
    """Yield the frames of a video in order. Time stamps that do not increase are replaced by the usual step.

    Raises:
        InputError: the file is missing, not a media file, without video that can be decoded, or damaged.
    """
    file = require_input_file(path, "video")
    name = f"video {file}"
    with open_container(file, "video") as container:
        stream = _choose_video(container, name)
        period = 1 / (stream.average_rate or _DEFAULT_RATE)
        origin, last, seconds = read_origin(container), None, Fraction(0)
        try:
            for index, frame in enumerate(container.decode(stream)):
                stamp = _read_stamp(frame)
                if index:
                    seconds += _bounded(stamp, last, period)
                elif origin is not None:
                    seconds = _bounded(stamp, origin, Fraction(0))
                last = stamp
                yield TimedFrame(_read_pixels(frame), index, seconds, period)
        except av.FFmpegError as error:
            raise InputError(f"{name}: cannot be decoded to its end ({error.strerror})") from error


def resample_frames(path: str | os.PathLike[str], fps: int) -> Iterator[TimedFrame]:
    """Yield the frames of a video at a constant rate: what a player shows in the middle of each 1 / fps.

    A video of that rate from time 0 on is unchanged, also if its time stamps are rounded. The first frame
    also stands for the time before it, and the last one is shown for a period.

    Raises:
        InputError: see `read_frames`.
    """
    shown: TimedFrame | None = None
    tick = 0
    for frame in read_frames(path):
        while shown is not None and Fraction(2 * tick + 1, 2 * fps) <= frame.seconds:
            yield shown
            tick += 1
        shown = frame
    if shown is not None:
        for _ in range(tick, max(round((shown.seconds + shown.period) * fps), 1)):
            yield shown


def _choose_video(container: InputContainer, name: str) -> VideoStream:
    # FFmpeg lists cover pictures as video tracks.
    streams = tuple(
        stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic
    )
    if not streams:
        raise InputError(f"{name}: contains no video")
    return choose_track(container, streams, name)


def _read_stamp(frame: VideoFrame) -> Fraction | None:
    return None if frame.pts is None or not frame.time_base else frame.pts * frame.time_base


def _bounded(stamp: Fraction | None, before: Fraction | None, usual: Fraction) -> Fraction:
    """Return the step between two time stamps, `usual` if it is unknown or cannot be right."""
    if stamp is None or before is None or not 0 < stamp - before <= _LONGEST_STILL_SECONDS:
        return usual
    return stamp - before


def _read_pixels(frame: VideoFrame) -> NDArray[np.uint8]:
    pixels = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
