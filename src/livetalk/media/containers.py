"""Containers of audio and video: opening, choice of a track, and the instant that counts as their start."""

import re
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar, cast

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from livetalk.errors import InputError
from livetalk.log import get_logger

_STARTS_AT_ZERO = frozenset({"mp4", "matroska"})
"""Formats whose time stamps count from the start of the recording; those of others start anywhere."""

_LATEST_START_SECONDS = 10
"""A container that starts later was cut out of a longer recording."""

AnyStream = TypeVar("AnyStream", AudioStream, VideoStream)

_logger = get_logger(__name__)


def open_container(path: Path, what: str) -> InputContainer:
    """Open a media file for reading; tags of any encoding are accepted.

    `what` names the kind of file in messages, such as "audio".

    Raises:
        InputError: FFmpeg does not know the format.
    """
    # The "file:" prefix prevents names such as "concat:x" from being read as a protocol; the whitelist
    # prevents playlists from opening network addresses.
    try:
        return av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise InputError(f"{what} {path}: is not an audio or video file that FFmpeg can read") from error


def choose_track(container: InputContainer, streams: tuple[AnyStream, ...], name: str) -> AnyStream:
    """Return the track that a player would play: the first default one that can be decoded, else the first.

    `streams` are the tracks of one kind, at least one. Where there are several, the choice is logged. `name`
    is that of the file in messages, such as "audio a.mkv".

    Raises:
        InputError: there is no decoder for any track.
    """
    # PyAV has no codec context where FFmpeg has no decoder, whatever its annotations say.
    decodable = [stream for stream in streams if getattr(stream, "codec_context", None) is not None]
    if not decodable:
        formats = ", ".join(dict.fromkeys(_describe_format(container, stream.index) for stream in streams))
        raise InputError(f"{name}: nothing here decodes its format ({formats}); convert it to AAC or WAV")
    defaults = [stream for stream in decodable if stream.disposition & Disposition.default]
    chosen = (defaults or decodable)[0]
    if len(streams) > 1:
        number = streams.index(chosen) + 1
        _logger.warning(
            "%s: track %d of %d (%s) is used", name, number, len(streams), chosen.codec_context.name
        )
    return chosen


def read_origin(container: InputContainer) -> Fraction | None:
    """Return the time stamp, in seconds, of the start of a recording; None if the container does not tell.

    Times are counted from the first packet of any track, or from 0 where the format starts at 0: a track that
    starts later than that was silent before.
    """
    # The annotations of PyAV leave out that the time may be unknown.
    start_time = cast("int | None", container.start_time)
    if start_time is None:
        return None
    start = Fraction(start_time, av.time_base)
    starts_at_zero = not _STARTS_AT_ZERO.isdisjoint(container.format.name.split(","))
    return Fraction(0) if starts_at_zero and abs(start) <= _LATEST_START_SECONDS else start


def _describe_format(container: InputContainer, index: int) -> str:
    """Return FFmpeg's name of a track's format, such as "apac / 0x63617061"."""
    # PyAV has a name for decoders only; the summary, which FFmpeg logs, has one for every track.
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    summary = cast(Any, container).dumps_format()
    av.logging.set_level(level)
    found = re.search(rf"Stream #\d+:{index}\b[^\n]*?: (?:Audio|Video): ([^\n,]*)", summary)
    return found[1].strip().removeprefix("none ").strip("()") if found else "unknown"
