"""Framing of portraits: any image of a person is cropped as the training portraits were."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from livetalk.crop import Crop
from livetalk.errors import InputError
from livetalk.media.image import resize_and_center_crop

FACE_SIDE = 0.48
"""Side of the detector's face box in a training portrait, as a share of the image height."""

FACE_CENTER = (0.5, 0.465)
"""Centre of the face box in a training portrait: shares of width and height."""

_FRAMED_SIDES = (0.42, 0.55)
_FRAMED_OFFSET = 0.07
"""Tolerances of the training portraits: an image within them is used without a crop."""

_DETECTION_SIDE = 480
_SMALLEST_FACE = 0.06
_MAX_SHIFT = 0.12
_MAX_SHRINK = 0.15


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in an image, in pixels; it may extend beyond the image."""

    left: float
    top: float
    width: float
    height: float


def frame_portrait(
    image: NDArray[np.uint8], height: int, width: int, crop: Crop = "face", name: str = "image"
) -> NDArray[np.uint8]:
    """Crop and resize an image [H, W, 3], uint8, RGB, to [height, width, 3], framed like a training portrait.

    `crop` "face" frames the most prominent face from the top of the head to the upper chest; "center" takes
    the largest central crop; "none" keeps the whole image. Areas outside the image are filled with its
    blurred reflection. "published" is "center" with exactly the published resampling. `name` is that of the
    image in messages.

    Raises:
        InputError: crop is "face" and there is no face.
    """
    if crop == "published":
        return resize_and_center_crop(image, height, width)
    bounds = Box(0, 0, image.shape[1], image.shape[0])
    aspect = width / height
    if crop == "none":
        window = _smallest_around(bounds, aspect)
    elif crop == "center":
        window = _largest_inside(bounds, aspect)
    else:
        face = find_face(image)
        if face is None:
            raise InputError(f"{name}: no face was found; use a frontal portrait, or --crop center")
        window = bounds
        if not _is_framed(face, bounds, aspect):
            window = _fit_inside(_portrait_window(face, aspect), bounds)
    return _cut(image, window, height, width)


def find_face(image: NDArray[np.uint8]) -> Box | None:
    """Find the most prominent frontal face: the largest, with a preference for the centre.

    The image is [H, W, 3], uint8, RGB. The box is a square from above the eyebrows to the chin.
    """
    cv2 = _opencv()
    scale = min(1.0, _DETECTION_SIDE / max(image.shape[:2]))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    # The second attempt finds faces in dark or low-contrast images.
    for attempt in (grey, cv2.equalizeHist(grey)):
        smallest = max(24, round(_SMALLEST_FACE * max(grey.shape)))
        found = _face_cascade().detectMultiScale(
            attempt, scaleFactor=1.08, minNeighbors=3, minSize=(smallest, smallest)
        )
        if len(found):
            x, y, width, height = max(found, key=lambda box: _prominence(box, grey.shape))
            return Box(x / scale, y / scale, width / scale, height / scale)
    return None


def _opencv() -> Any:
    # A lazy import, so that building, training and timing a model does not load OpenCV.
    return importlib.import_module("cv2")


@cache
def _face_cascade() -> Any:
    cv2 = _opencv()
    # Among OpenCV's frontal cascades only this one detected every rendered test portrait without false
    # positives.
    folder = Path(cv2.__file__).parent / "data"
    return cv2.CascadeClassifier(str(folder / "haarcascade_frontalface_alt.xml"))


def _prominence(box: Sequence[int], shape: tuple[int, ...]) -> float:
    x, y, width, height = (float(value) for value in box)
    distance = np.hypot((x + width / 2) / shape[1] - 0.5, (y + height / 2) / shape[0] - 0.5)
    return float(width * (1.0 - distance))


def _is_framed(face: Box, bounds: Box, aspect: float) -> bool:
    """Return whether an image is already framed like a training portrait."""
    offset_x = (face.left + face.width / 2) / bounds.width - FACE_CENTER[0]
    offset_y = (face.top + face.height / 2) / bounds.height - FACE_CENTER[1]
    return (
        abs(bounds.width / bounds.height / aspect - 1.0) < 0.01
        and _FRAMED_SIDES[0] <= face.height / bounds.height <= _FRAMED_SIDES[1]
        and max(abs(offset_x), abs(offset_y)) <= _FRAMED_OFFSET
    )


def _portrait_window(face: Box, aspect: float) -> Box:
    height = face.height / FACE_SIDE
    width = height * aspect
    left = face.left + face.width / 2 - FACE_CENTER[0] * width
    top = face.top + face.height / 2 - FACE_CENTER[1] * height
    return Box(left, top, width, height)


def _fit_inside(window: Box, bounds: Box) -> Box:
    """Shift and shrink a window, within limits, so that less of it is outside the image."""
    shrink = min(1.0, bounds.width / window.width, bounds.height / window.height)
    shrink = max(shrink, 1.0 - _MAX_SHRINK)
    width, height = window.width * shrink, window.height * shrink
    left = window.left + (window.width - width) * FACE_CENTER[0]
    top = window.top + (window.height - height) * FACE_CENTER[1]
    return Box(
        left + _shift_inside(left, width, bounds.width),
        top + _shift_inside(top, height, bounds.height),
        width,
        height,
    )


def _shift_inside(start: float, length: float, limit: float) -> float:
    """Return the shift that moves an interval towards 0..limit, limited to a share of its length."""
    wanted = max(-start, 0.0) - max(start + length - limit, 0.0)
    return float(np.clip(wanted, -_MAX_SHIFT * length, _MAX_SHIFT * length))


def _largest_inside(bounds: Box, aspect: float) -> Box:
    width = min(bounds.width, bounds.height * aspect)
    height = width / aspect
    return Box((bounds.width - width) / 2, (bounds.height - height) / 2, width, height)


def _smallest_around(bounds: Box, aspect: float) -> Box:
    width = max(bounds.width, bounds.height * aspect)
    height = width / aspect
    return Box((bounds.width - width) / 2, (bounds.height - height) / 2, width, height)


def _cut(image: NDArray[np.uint8], window: Box, height: int, width: int) -> NDArray[np.uint8]:
    """Resize the part of an image under a window to height x width; fill areas outside by reflection."""
    picture_height, picture_width = image.shape[:2]
    scale_x, scale_y = width / window.width, height / window.height
    left, top = max(window.left, 0.0), max(window.top, 0.0)
    right = min(window.left + window.width, picture_width)
    bottom = min(window.top + window.height, picture_height)
    pads = [
        (round((top - window.top) * scale_y), round((window.top + window.height - bottom) * scale_y)),
        (round((left - window.left) * scale_x), round((window.left + window.width - right) * scale_x)),
    ]
    size = (max(width - sum(pads[1]), 1), max(height - sum(pads[0]), 1))
    part = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS, box=(left, top, right, bottom))
    inner = np.asarray(part)
    if not any(map(sum, pads)):
        return inner.copy()
    filled: NDArray[np.uint8] = np.pad(inner, (*pads, (0, 0)), mode="symmetric")[:height, :width]
    return _blur_outside(filled, pads, size)


def _blur_outside(
    filled: NDArray[np.uint8], pads: list[tuple[int, int]], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Blur the reflected border, increasingly with the distance from the image."""
    height, width = filled.shape[:2]
    sigma = 0.04 * max(height, width)
    rows = np.arange(height, dtype=np.float32)
    columns = np.arange(width, dtype=np.float32)
    outside_y = np.maximum(pads[0][0] - rows, rows - (pads[0][0] + size[1] - 1)).clip(min=0)
    outside_x = np.maximum(pads[1][0] - columns, columns - (pads[1][0] + size[0] - 1)).clip(min=0)
    distance = np.maximum(outside_y[:, None], outside_x[None, :])
    weight = np.clip(distance / sigma, 0.0, 1.0)[..., None]
    blurred = _opencv().GaussianBlur(filled, (0, 0), sigma)
    mixed: NDArray[np.float32] = filled * (1.0 - weight) + blurred * weight
    return np.rint(mixed).astype(np.uint8)
