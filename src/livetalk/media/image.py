"""Pictures of any size and mode into RGB arrays, and contact sheets out of frames."""

import math
import os
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from torch import Tensor

from livetalk.errors import InputError
from livetalk.media.files import PendingFile, require_input_file

MIN_SIDE = 32
"""Pixels of the shorter side below which a picture cannot show a face."""

MAX_PIXELS = 80_000_000
"""Pixels above which a picture is refused: decoding it would need gigabytes of memory."""

_NEUTRAL_GREY = (128, 128, 128)
_DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


def load_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Load a picture as RGB, turned the way its EXIF data says.

    Transparent parts become neutral grey, 16-bit and floating-point pictures are reduced to 8 bits, and
    of an animation the first frame is taken.

    Args:
        path: any file that Pillow reads.

    Returns:
        [H, W, 3], uint8.

    Raises:
        InputError: the file is missing, unreadable, not a picture, damaged, too small or too large.
    """
    file = require_input_file(path, "image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                _check_size(file, image.width, image.height)
                image.load()
                return np.array(_to_rgb(ImageOps.exif_transpose(image)))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(
            f"image {file}: is too large, at most {MAX_PIXELS // 10**6} million pixels"
        ) from error
    except UnidentifiedImageError as error:
        raise InputError(f"image {file}: is not a picture that can be read") from error
    except _DECODING_ERRORS as error:
        raise InputError(f"image {file}: is damaged or incomplete") from error


def contact_sheet(frames: Sequence[NDArray[np.uint8]], num_columns: int = 6) -> NDArray[np.uint8]:
    """Lay frames out in rows, first to last.

    Args:
        frames: at least one picture [H, W, 3], uint8, all of one size.
        num_columns: frames in a row.

    Returns:
        [rows * H, columns * W, 3], uint8; places left over are grey.
    """
    height, width = frames[0].shape[:2]
    columns = min(num_columns, len(frames))
    rows = -(-len(frames) // columns)
    sheet = np.full((rows * height, columns * width, 3), _NEUTRAL_GREY[0], dtype=np.uint8)
    for index, frame in enumerate(frames):
        row, column = divmod(index, columns)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = frame
    return sheet


class Stamp:
    """A line of text across the middle of pictures, white on a dark band, that cannot be overlooked."""

    def __init__(self, text: str) -> None:
        """Prepare; the text is drawn when the size of the pictures is known."""
        self._text = text
        self._band: NDArray[np.uint8] = np.zeros((0, 0, 3), dtype=np.uint8)

    def apply(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return pictures [F, H, W, 3], uint8, with the text across each of them."""
        height, width = frames.shape[1:3]
        if self._band.shape[1] != width:
            self._band = _text_band(self._text, width, max(8, height // 6))
        top = (height - self._band.shape[0]) // 2
        stamped = frames.copy()
        stamped[:, top : top + self._band.shape[0]] = self._band
        return stamped


def save_png(path: str | os.PathLike[str], image: NDArray[np.uint8]) -> Path:
    """Write a picture as PNG; it appears only when it is complete.

    Args:
        path: the file to write, replaced when it exists.
        image: [H, W, 3], uint8, RGB.

    Raises:
        OutputError: the file cannot be written.
    """
    pending = PendingFile(path)
    try:
        Image.fromarray(image).save(pending.path, format="PNG")
    except OSError as error:
        pending.discard()
        raise pending.error(error) from error
    return pending.keep()


def _text_band(text: str, width: int, height: int) -> NDArray[np.uint8]:
    """Draw a line of text as wide as fits: [height, width, 3]."""
    large = ImageFont.load_default(64)
    left, top, right, bottom = large.getbbox(text)
    drawn = Image.new("RGB", (round(right - left) + 64, round(bottom - top) + 64))
    ImageDraw.Draw(drawn).text((32 - left, 32 - top), text, fill="white", font=large)
    drawn.thumbnail((width, height))
    band = Image.new("RGB", (width, height))
    band.paste(drawn, ((width - drawn.width) // 2, (height - drawn.height) // 2))
    return np.array(band)


def _check_size(file: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise InputError(
            f"image {file}: {width}x{height} pixels are too many, at most {MAX_PIXELS // 10**6} million"
        )
    if min(width, height) < MIN_SIDE:
        raise InputError(
            f"image {file}: {width}x{height} pixels is too small, at least {MIN_SIDE}x{MIN_SIDE}"
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_to_8_bits(np.asarray(image, dtype=np.float32), image.mode))
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    backdrop = Image.new("RGBA", layer.size, (*_NEUTRAL_GREY, 255))
    return Image.alpha_composite(backdrop, layer).convert("RGB")


def _to_8_bits(values: NDArray[np.float32], mode: str) -> NDArray[np.uint8]:
    """Scale grey values to 0..255: integers span 16 bits, floating point 0..1 or else 0..255."""
    if mode.startswith("I"):
        values = values / 257.0
    elif np.nanmax(values) <= 1.0:
        values = values * 255.0
    return np.nan_to_num(values).clip(0.0, 255.0).round().astype(np.uint8)


def resize_and_center_crop(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Scale a picture until it covers `height` x `width`, and cut out the middle.

    Args:
        image: `[h, w, 3]` uint8 RGB.
        height: rows of the result.
        width: columns of the result.

    Returns:
        `[height, width, 3]` uint8.
    """
    rows, columns = image.shape[:2]
    scale = max(height / rows, width / columns)
    # The ceiling may add a pixel that arithmetic without rounding would not; the crop takes it off again.
    scaled = math.ceil(scale * rows), math.ceil(scale * columns)
    resized = np.asarray(Image.fromarray(image).resize(scaled[::-1], Image.Resampling.BILINEAR))
    top, left = (round((size - want) / 2) for size, want in zip(scaled, (height, width), strict=True))
    return resized[top : top + height, left : left + width].copy()


def image_to_tensor(image: NDArray[np.uint8], dtype: torch.dtype = torch.float32) -> Tensor:
    """Scale the pixels of a picture to -1..1.

    Args:
        image: `[H, W, 3]` uint8.
        dtype: that each of the three operations rounds to; with bfloat16 the result is up to 2^-7 off.

    Returns:
        `[3, H, W]` of the dtype.
    """
    return (torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).to(dtype) / 255 - 0.5) * 2
