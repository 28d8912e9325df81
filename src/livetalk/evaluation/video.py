"""Frames of a video file, one at a time."""

import os
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from livetalk.errors import InputError
from livetalk.media.files import require_input_file


def read_fps(path: str | os.PathLike[str]) -> float:
    """Return the average frames per second of a video; `InputError` if the file has none."""
    file = require_input_file(path, "video")
    with _open(file) as container:
        rate = container.streams.video[0].average_rate
    if not rate:
        raise InputError(f"video {file}: its frame rate is unknown")
    return float(rate)


def iterate_frames(path: str | os.PathLike[str]) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of a video in order, [H, W, 3], uint8, RGB.

    Raises:
        InputError: the file is missing, not a media file, without video or damaged.
    """
    file = require_input_file(path, "video")
    with _open(file) as container:
        try:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
        except av.FFmpegError as error:
            raise InputError(f"video {file}: cannot be decoded to its end ({error.strerror})") from error


def _open(file: Path) -> av.container.InputContainer:
    try:
        container = av.open(str(file))
    except av.FFmpegError as error:
        raise InputError(f"video {file}: not a media file that FFmpeg reads ({error.strerror})") from error
    if not container.streams.video:
        container.close()
        raise InputError(f"video {file}: contains no video")
    return container
