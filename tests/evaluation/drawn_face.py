"""A drawn face whose opening is known, and instruments that read it without any model."""

from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from livetalk.evaluation.landmarks import NUM_LANDMARKS

INNER_LIPS = ((82, 87), (13, 14), (312, 317))
CORNERS = (61, 291)
EYES = (33, 133, 160, 144, 158, 153, 263, 362, 387, 373, 385, 380)


def draw_landmarks(opening: float, eye: float = 0.3) -> NDArray[np.float32]:
    """Return [478, 2]: a mouth 20 px wide that is `opening` widths open, eyes `eye` widths open."""
    points = np.full((NUM_LANDMARKS, 2), 32.0, dtype=np.float32)
    points[0], points[1] = (8, 8), (56, 60)
    points[CORNERS[0]], points[CORNERS[1]] = (22, 48), (42, 48)
    for upper, lower in INNER_LIPS:
        points[upper], points[lower] = (32, 48 - 10 * opening), (32, 48 + 10 * opening)
    for outer, inner, *lids in (EYES[:6], EYES[6:]):
        points[outer], points[inner] = (20, 24), (30, 24)
        for upper, lower in (lids[:2], lids[2:]):
            points[upper], points[lower] = (25, 24 - 5 * eye), (25, 24 + 5 * eye)
    return points


def draw_frame(opening: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return [64, 64, 3] whose lower half is as bright as the mouth is open; `find_opening` reads it."""
    frame = np.full((64, 64, 3), 40, dtype=np.uint8)
    frame[32:] = round(20 + 200 * opening)
    frame[:16] = rng.integers(0, 60, (16, 64, 1))
    return frame


def write_video(path: Path, opening: np.ndarray, with_audio: bool = True) -> Path:
    """Write a drawn face with a tone where the mouth is open."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "8"})
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        audio = container.add_stream("aac", rate=16000, layout="mono") if with_audio else None
        for value in opening:
            frame = av.VideoFrame.from_ndarray(draw_frame(float(value), rng), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if audio is not None:
            tone = 0.3 * np.sin(np.arange(len(opening) * 640) * 0.3)
            samples = (tone * np.repeat(opening > 0, 640)).astype(np.float32)
            block = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            block.sample_rate = 16000
            container.mux(audio.encode(block))
            container.mux(audio.encode())
    return path


class BrightnessLandmarker:
    """Reads the opening that `draw_frame` drew; sees no face in a black picture."""

    def find(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        if frame.max() < 12:
            return np.full((NUM_LANDMARKS, 2), np.nan, dtype=np.float32)
        return draw_landmarks((float(frame[40:].mean()) - 20) / 200)


class ColourEmbedder:
    """Tells people apart by the colour above the mouth."""

    def embed(self, frame: NDArray[np.uint8]) -> NDArray[np.float64]:
        return np.repeat(frame[20:30].mean() / 255, 128)
