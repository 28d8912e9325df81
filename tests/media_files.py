"""Sound, picture and video files made on the spot, for tests of everything that reads them."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.video.frame import VideoFrame
from numpy.typing import NDArray


def voice(seconds: float, sample_rate: int = 16_000, num_channels: int = 1) -> NDArray[np.float32]:
    """Make a sweep with a syllable-like envelope, [C, N], float32, that is recognised after coding."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    wave = 0.5 * np.sin(2 * np.pi * (200 + 150 * time) * time) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time))
    return np.tile(wave.astype(np.float32), (num_channels, 1))


def write_sound(
    path: Path,
    samples: NDArray[np.float32],
    sample_rate: int,
    codec: str = "pcm_s16le",
    layout: str | None = None,
) -> Path:
    """Encode samples [C, N] into the container that the path's ending names."""
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
            frame.pts = 0
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


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
