"""Facial landmarks of single frames, and quantities derived from them: lips, eyes, the face's box."""

from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from livetalk.evaluation.extras import import_extra

NUM_LANDMARKS = 478
"""Number of points of the face mesh with irises."""

# Upper and lower point of three pairs in the middle of the inner lips; their mean has less noise than one
# pair.
_INNER_LIPS = ((82, 87), (13, 14), (312, 317))
_MOUTH_CORNERS = (61, 291)
# Outer corner, inner corner, then two pairs of upper and lower lid, for each eye.
_EYES = ((33, 133, (160, 144), (158, 153)), (263, 362, (387, 373), (385, 380)))

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are outside."""


class FaceLandmarker:
    """Finds the landmarks of the most prominent face in each frame independently.

    Use it as a context manager; it holds native memory.
    """

    def __init__(self, min_confidence: float = 0.3) -> None:
        """Load the model; `LivetalkError` without mediapipe. `min_confidence` of a face is 0..1."""
        mesh = import_extra("mediapipe").solutions.face_mesh
        self._mesh: Any = mesh.FaceMesh(
            # Without tracking and smoothing over time, which would hide delays and jitter.
            static_image_mode=True,
            refine_landmarks=True,
            max_num_faces=1,
            min_detection_confidence=min_confidence,
        )

    def find(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return [478, 2], float32, x and y in pixels, for [H, W, 3], uint8, RGB; NaN without a face."""
        height, width = frame.shape[:2]
        # The model's projection back into the image is exact for square images only.
        side = max(height, width)
        square = np.zeros((side, side, 3), dtype=np.uint8)
        square[:height, :width] = frame
        found = self._mesh.process(square).multi_face_landmarks
        if not found:
            return np.full((NUM_LANDMARKS, 2), np.nan, dtype=np.float32)
        points = [(point.x * side, point.y * side) for point in found[0].landmark]
        return np.asarray(points, dtype=np.float32)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free the model."""
        self._mesh.close()


def lip_opening(landmarks: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the gap between the inner lips as a share of the mouth's width, [F], float64, 0 to about 1.

    `landmarks` is [F, 478, 2], float32, pixels; unknown ones give NaN.
    """
    gaps = [_distance(landmarks, upper, lower) for upper, lower in _INNER_LIPS]
    return np.asarray(np.mean(gaps, axis=0) / _distance(landmarks, *_MOUTH_CORNERS))


def eye_opening(landmarks: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the gap between the lids as a share of the eye's width, the mean of both eyes, [F], float64.

    `landmarks` is as for `lip_opening`. A shut eye has about 0.1, a wide open one 0.35.
    """
    eyes = []
    for outer, inner, *lids in _EYES:
        gap = np.mean([_distance(landmarks, upper, lower) for upper, lower in lids], axis=0)
        eyes.append(gap / _distance(landmarks, outer, inner))
    return np.asarray(np.mean(eyes, axis=0))


def face_box(landmarks: NDArray[np.float32], height: int, width: int) -> Box | None:
    """Return the box around landmarks [478, 2], clipped to the frame; None if there is none inside it."""
    if not np.isfinite(landmarks).all():
        return None
    left, top = np.floor(landmarks.min(axis=0)).astype(int)
    right, bottom = np.ceil(landmarks.max(axis=0)).astype(int)
    box = (max(int(left), 0), max(int(top), 0), min(int(right), width), min(int(bottom), height))
    return box if box[0] < box[2] and box[1] < box[3] else None


def cut_box(frame: NDArray[np.uint8], box: Box | None) -> NDArray[np.uint8]:
    """Return the pixels of a frame [H, W, 3] inside a box; all of them for None."""
    if box is None:
        return frame
    left, top, right, bottom = box
    return frame[top:bottom, left:right]


def _distance(landmarks: NDArray[np.float32], first: int, second: int) -> NDArray[np.float64]:
    gap = landmarks[:, first].astype(np.float64) - landmarks[:, second]
    return np.asarray(np.hypot(gap[:, 0], gap[:, 1]))
