"""Signals: one number or vector per frame, all of them taken in a single pass over a video.

A measure that looks at pictures declares its signals; the pass computes the signals of all measures while it
holds the frame, so that a video is decoded once and no frame is kept. Only the signals stay in memory.
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
        picture: [H, W, 3], uint8, RGB.
        before: the picture of the frame before; None for the first.
        landmarks: [478, 2], float32, pixels; NaN without a face.
        face: box around the landmarks; None without a face inside the picture.
        reference: [H, W, 3], the frame with the same number in the reference video; None where there is no
            reference video, where it has ended, or where its frames have another size.
    """

    picture: NDArray[np.uint8]
    before: NDArray[np.uint8] | None
    landmarks: NDArray[np.float32]
    face: Box | None
    reference: NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True)
class Signal:
    """A quantity of every frame.

    Attributes:
        name: for messages.
        read: returns the quantity, a number or a vector of fixed length; NaN where it is unknown.
    """

    name: str
    read: Callable[[FrameView], float | NDArray[np.float64]]


LIPS = Signal("lip opening", lambda view: float(lip_opening(view.landmarks[None])[0]))
"""See `landmarks.lip_opening`. Always tracked: it tells whether the video shows a face at all."""

EYES = Signal("eye opening", lambda view: float(eye_opening(view.landmarks[None])[0]))
"""See `landmarks.eye_opening`."""
