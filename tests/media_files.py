"""Sound, picture and video files made on the spot, for tests of everything that reads them."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.stream import Disposition
from av.video.frame import VideoFrame
from numpy.typing import NDArray


def voice(seconds: float, sample_rate: int = 16_000, num_channels: int = 1) -> NDArray[np.float32]:
    """Make a sweep with a syllable-like envelope, [C, N], float32, that is recognised after coding."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    wave = 0.5 * np.sin(2 * np.pi * (200 + 150 * time) * time) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time))
    return np.tile(wave.astype(np.float32), (num_channels, 1))


def write_audio(
    path: Path,
    samples: NDArray[np.float32],
    sample_rate: int,
    codec: str = "pcm_s16le",
    layout: str | None = None,
    start_seconds: float = 0.0,
) -> Path:
    """Encode samples [C, N] from a time on into the container that the path's ending names."""
    names = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
    layout = layout or names[samples.shape[0]]
    with av.open(str(path), "w") as container:
        options = {"strict": "experimental"} if codec == "vorbis" else {}
        stream = container.add_stream(codec, rate=sample_rate, layout=layout, options=options)
        assert isinstance(stream, AudioStream)
        container.start_encoding()
        packed = np.ascontiguousarray(samples.T).reshape(1, -1)
        if samples.size:
            frame = AudioFrame.from_ndarray(packed, format="flt", layout=layout)
            frame.sample_rate = sample_rate
            frame.time_base = Fraction(1, sample_rate)
            frame.pts = round(start_seconds * sample_rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_tracks(
    path: Path,
    tracks: Sequence[NDArray[np.float32]],
    *,
    codec: str = "aac",
    dispositions: Sequence[Disposition] = (),
    start_seconds: float = 0.0,
    with_video: bool = False,
) -> Path:
    """Encode several audio tracks [C, N] of 48 kHz, from a time on, and a black video from 0 on if wanted."""
    names = {1: "mono", 2: "stereo"}
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"threads": "1"}) if with_video else None
        streams = [container.add_stream(codec, rate=48_000, layout=names[len(track)]) for track in tracks]
        for stream, disposition in zip(streams, dispositions, strict=False):
            stream.disposition = disposition
        if video is not None:
            video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
            for _ in range(25):
                black = VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
                container.mux(video.encode(black))
            container.mux(video.encode(None))
        for stream, track in zip(streams, tracks, strict=True):
            packed = np.ascontiguousarray(track.T).reshape(1, -1)
            frame = AudioFrame.from_ndarray(packed, format="flt", layout=names[len(track)])
            frame.sample_rate = 48_000
            frame.time_base = Fraction(1, 48_000)
            frame.pts = round(start_seconds * 48_000)
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


def rewrite_times(source: Path, target: Path, move: Callable[[Fraction], Fraction | None]) -> Path:
    """Copy the audio packets of a file with time stamps `move(seconds)`, without those that become None."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = reader.streams.audio[0]
        copied = writer.add_stream_from_template(stream)
        packets = []
        for packet in reader.demux(stream):
            seconds = None if packet.pts is None else move(packet.pts * packet.time_base)
            if seconds is not None:
                packet.pts = packet.dts = round(seconds / packet.time_base)
                packet.stream = copied
                packets.append(packet)
        for packet in packets:
            writer.mux_one(packet)
    return target


def write_silent_video(path: Path, num_frames: int = 5) -> Path:
    """Encode a film without an audio track."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(num_frames):
            picture = VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def read_frames(path: Path) -> list[NDArray[np.uint8]]:
    """Decode all pictures of a video, [H, W, 3], uint8, RGB."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").astype(np.uint8) for frame in container.decode(video=0)]


def count_boxes_before_data(path: Path) -> int:
    """Return the position of an MP4's index among its top-level boxes, -1 when it follows the data."""
    data = path.read_bytes()
    names, offset = [], 0
    while offset < len(data):
        size = int.from_bytes(data[offset : offset + 4], "big")
        names.append(data[offset + 4 : offset + 8])
        offset += size
    return names.index(b"moov") if names.index(b"moov") < names.index(b"mdat") else -1
