"""Images of any size and mode as RGB arrays, contact sheets, and PNG output."""

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
"""Shorter side in pixels below which an image cannot show a face."""

MAX_PIXELS = 80_000_000
"""Pixels above which an image is refused, because decoding it would need gigabytes of memory."""

_NEUTRAL_GREY = (128, 128, 128)
_DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


def load_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Load any image that Pillow reads as RGB [H, W, 3], uint8, rotated according to its EXIF data.

    Transparent parts become neutral grey, 16-bit and floating-point images are reduced to 8 bits, and an
    animation yields its first frame.

    Raises:
        InputError: the file is missing, unreadable, not an image, damaged, too small or too large.
    """
    file = require_input_file(path, "image")
    try:
        # Pillow only warns about images of up to twice its limit and raises an error beyond.
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
        raise InputError(f"image {file}: is not an image that can be read") from error
    except _DECODING_ERRORS as error:
        raise InputError(f"image {file}: is damaged or incomplete") from error


def contact_sheet(frames: Sequence[NDArray[np.uint8]], num_columns: int = 6) -> NDArray[np.uint8]:
    """Arrange frames [H, W, 3], uint8, at least one, row by row in a grid [rows * H, columns * W, 3].

    Unused cells are grey.
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
    """A line of white text on a dark band across the middle of frames."""

    def __init__(self, text: str) -> None:
        """Store the text; it is drawn once the size of the frames is known."""
        self._text = text
        self._band: NDArray[np.uint8] = np.zeros((0, 0, 3), dtype=np.uint8)

    def apply(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return frames [F, H, W, 3], uint8, with the text across each of them."""
        height, width = frames.shape[1:3]
        if self._band.shape[1] != width:
            self._band = _text_band(self._text, width, max(8, height // 6))
        top = (height - self._band.shape[0]) // 2
        stamped = frames.copy()
        stamped[:, top : top + self._band.shape[0]] = self._band
        return stamped


def save_png(path: str | os.PathLike[str], image: NDArray[np.uint8], *, overwrite: bool = False) -> Path:
    """Write an image [H, W, 3], uint8, RGB, as PNG, which appears only when it is complete; return its path.

    Raises:
        OutputError: the file cannot be written.
    """
    with PendingFile(path, overwrite=overwrite) as pending:
        Image.fromarray(image).save(pending.path, format="PNG")
        return pending.keep()


def _text_band(text: str, width: int, height: int) -> NDArray[np.uint8]:
    """Draw a line of text on a band [height, width, 3], as large as fits."""
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
    """Scale an image [h, w, 3], uint8, RGB, until it covers `height` x `width`, and crop the centre.

    The resampling is that of the published preprocessing.
    """
    rows, columns = image.shape[:2]
    scale = max(height / rows, width / columns)
    # The ceiling can add a pixel compared with exact arithmetic; the crop removes it.
    scaled = math.ceil(scale * rows), math.ceil(scale * columns)
    resized = np.asarray(Image.fromarray(image).resize(scaled[::-1], Image.Resampling.BILINEAR))
    top, left = (round((size - want) / 2) for size, want in zip(scaled, (height, width), strict=True))
    return resized[top : top + height, left : left + width].copy()


def image_to_tensor(image: NDArray[np.uint8], dtype: torch.dtype = torch.float32) -> Tensor:
    """Convert an image [H, W, 3], uint8, to a tensor `[3, H, W]`, -1..1.

    Each of the three operations rounds to `dtype`, as the published preprocessing does; with bfloat16 the
    result is up to 2^-7 off.
    """
    return (torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).to(dtype) / 255 - 0.5) * 2
