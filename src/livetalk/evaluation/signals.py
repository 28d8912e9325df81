"""Signals: one number or vector per frame, all computed in a single pass over a video.

A measure that analyses frames declares its signals. The pass computes the signals of all measures while it
holds a frame, so that a video is decoded once and only the signals stay in memory.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from livetalk.evaluation.landmarks import Box, eye_opening, lip_opening


@dataclass(frozen=True, slots=True, eq=False)
class FrameView:
    """One frame and what is known about it.

    Attributes:
        reference: [H, W, 3], the frame of the same index in the reference video; None if there is no such
            frame or if it has another size.
    """

    frame: NDArray[np.uint8]  # [H, W, 3], uint8, RGB
    before: NDArray[np.uint8] | None
    landmarks: NDArray[np.float32]  # [478, 2], float32, pixels; NaN without a face
    face: Box | None  # box around the landmarks; None without a face inside the frame
    reference: NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True)
class Signal:
    """A quantity of every frame; `read` returns a number or a vector of fixed length, NaN if unknown."""

    name: str
    read: Callable[[FrameView], float | NDArray[np.float64]]


LIPS = Signal("lip opening", lambda view: float(lip_opening(view.landmarks[None])[0]))
"""See `landmarks.lip_opening`. Always computed, because it shows whether the video has a face at all."""

EYES = Signal("eye opening", lambda view: float(eye_opening(view.landmarks[None])[0]))
"""See `landmarks.eye_opening`."""
