"""Framing of portraits: any image of a person is cropped as the training portraits were."""

import importlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from livetalk.crop import Crop
from livetalk.errors import InputError
from livetalk.log import get_logger
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

_FEWEST_VOTES = 3
_CERTAIN_VOTES = 12
"""Overlapping detections of one face. Shipped portraits have 58 and more, 19 when tilted by 15 degrees.

Textures and faces that are upside down have up to 9, so that fewer than 12 count only where both eyes are
found too.
"""

_TURNS = (90, -90, 180, 30, -30, 60, -60, 120, -120, 150, -150)
_FINE_TURNS = (-15, 15)
"""Degrees, counterclockwise, by which an image is turned in search of a face."""

_EYES_SIDE = 160
_EYES_HEIGHT = 0.62
"""The eyes are searched in the upper part of a face box, scaled to this many pixels."""

_MAX_SHIFT = 0.12
_MAX_SHRINK = 0.15

_logger = get_logger(__name__)


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
    image in messages; one of them says that an image was turned to find the face.

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
        upright = find_upright_face(image, name)
        if upright is None:
            raise InputError(f"{name}: no face was found; use a frontal portrait, or --crop center")
        image, face = upright
        window = bounds = Box(0, 0, image.shape[1], image.shape[0])
        if not _is_framed(face, bounds, aspect):
            window = _fit_inside(_portrait_window(face, aspect), bounds)
    return _cut(image, window, height, width)


def find_face(image: NDArray[np.uint8]) -> Box | None:
    """Find the most prominent upright, frontal face: the largest, with a preference for the centre.

    The image is [H, W, 3], uint8, RGB. The box is a square from above the eyebrows to the chin.
    """
    scale, grey = _shrink(image)
    found = _most_prominent(grey, _CERTAIN_VOTES) or _most_prominent(grey, _FEWEST_VOTES)
    if found is None or (found.votes < _CERTAIN_VOTES and not _has_eyes(grey, found)):
        return None
    return Box(found.left / scale, found.top / scale, found.side / scale, found.side / scale)


def find_upright_face(image: NDArray[np.uint8], name: str = "image") -> tuple[NDArray[np.uint8], Box] | None:
    """Find the most prominent frontal face, also in an image that is turned by any angle.

    The image is [H, W, 3], uint8, RGB; `name` is that of the image in messages.

    Returns:
        The image, turned if necessary so that the face is upright, and the box of the face in it; None
        without a face. The corners of a turned image are filled with its reflection.
    """
    _, grey = _shrink(image)
    if _most_prominent(grey, _CERTAIN_VOTES) is None:
        angle = _find_angle(grey)
        if angle is not None:
            turned = _turn(image, angle)
            face = find_face(turned)
            if face is not None:
                _logger.warning("%s: turned by %d degrees, so that the face is upright", name, angle)
                return turned, face
    face = find_face(image)
    return None if face is None else (image, face)


@dataclass(frozen=True, slots=True)
class _Detection:
    """A square in a small grey image, and the number of overlapping detections that agree on it."""

    left: int
    top: int
    side: int
    votes: int


def _shrink(image: NDArray[np.uint8]) -> tuple[float, NDArray[np.uint8]]:
    """Return a small grey copy of an image for detection, and its scale."""
    cv2 = _opencv()
    scale = min(1.0, _DETECTION_SIDE / max(image.shape[:2]))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return scale, cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _most_prominent(grey: NDArray[np.uint8], fewest_votes: int) -> _Detection | None:
    """Return the most prominent detection with enough votes."""
    # The second attempt finds faces in dark or low-contrast images.
    for attempt in (grey, _opencv().equalizeHist(grey)):
        found = [one for one in _detect(attempt) if one.votes >= fewest_votes]
        if found:
            return max(found, key=lambda one: _prominence(one, grey.shape))
    return None


def _detect(grey: NDArray[np.uint8]) -> list[_Detection]:
    smallest = max(24, round(_SMALLEST_FACE * max(grey.shape)))
    boxes, votes = _cascade("frontalface_alt").detectMultiScale2(
        grey, scaleFactor=1.08, minNeighbors=_FEWEST_VOTES, minSize=(smallest, smallest)
    )
    return [
        _Detection(int(left), int(top), int(side), int(count))
        for (left, top, side, _), count in zip(boxes, votes, strict=True)
    ]


def _has_eyes(grey: NDArray[np.uint8], face: _Detection) -> bool:
    """Return whether both eyes are seen in the upper part of a face."""
    cv2 = _opencv()
    part = grey[face.top : face.top + round(_EYES_HEIGHT * face.side), face.left : face.left + face.side]
    size = (_EYES_SIDE, round(_EYES_HEIGHT * _EYES_SIDE))
    part = cv2.equalizeHist(cv2.resize(part, size, interpolation=cv2.INTER_CUBIC))
    eyes = _cascade("eye").detectMultiScale(part, scaleFactor=1.05, minNeighbors=2, minSize=(20, 20))
    centers = [left + width / 2 for left, _, width, _ in eyes]
    return any(center < _EYES_SIDE / 2 for center in centers) and any(
        center > _EYES_SIDE / 2 for center in centers
    )


def _find_angle(grey: NDArray[np.uint8]) -> int | None:
    """Return a turn, in degrees, at which a face is certain; None without any."""
    for angle in _TURNS:
        votes = {angle: _count_votes(_turn(grey, angle))}
        if votes[angle] >= _CERTAIN_VOTES:
            votes |= {angle + fine: _count_votes(_turn(grey, angle + fine)) for fine in _FINE_TURNS}
            return max(votes, key=lambda turn: votes[turn])
    return None


def _count_votes(grey: NDArray[np.uint8]) -> int:
    """Return the detector votes of the face with the most votes; 0 if no face is certain."""
    found = _most_prominent(grey, _CERTAIN_VOTES)
    return 0 if found is None else found.votes


def _turn(image: NDArray[np.uint8], angle: int) -> NDArray[np.uint8]:
    """Turn an image counterclockwise by degrees onto a canvas that contains all of it."""
    cv2 = _opencv()
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
    cosine, sine = np.abs(matrix[0, :2])
    canvas = (round(height * sine + width * cosine), round(height * cosine + width * sine))
    matrix[:, 2] += ((canvas[0] - width) / 2, (canvas[1] - height) / 2)
    turned = cv2.warpAffine(image, matrix, canvas, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(turned, dtype=np.uint8)


def _opencv() -> Any:
    # A lazy import, so that building, training and timing a model does not load OpenCV.
    return importlib.import_module("cv2")


@cache
def _cascade(name: str) -> Any:
    """Return a detector of OpenCV, "frontalface_alt" or "eye".

    Among OpenCV's frontal cascades only frontalface_alt detected every rendered test portrait without false
    positives.
    """
    cv2 = _opencv()
    return cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / f"haarcascade_{name}.xml"))


def _prominence(face: _Detection, shape: tuple[int, ...]) -> float:
    center_x, center_y = face.left + face.side / 2, face.top + face.side / 2
    distance = np.hypot(center_x / shape[1] - 0.5, center_y / shape[0] - 0.5)
    return float(face.side * (1.0 - distance))


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
