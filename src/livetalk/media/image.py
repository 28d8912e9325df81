"""Images of any format as RGB arrays, contact sheets, and PNG output."""

import contextlib
import importlib
import io
import math
import os
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError
from torch import Tensor

from livetalk.errors import InputError
from livetalk.media.files import PendingFile, require_input_file
from livetalk.media.pixels import NEUTRAL_GREY, array_to_rgb, image_to_rgb

MIN_SIDE = 32
"""Shorter side in pixels below which an image cannot show a face."""

MAX_PIXELS = 80_000_000
"""Pixels above which an image is refused, because decoding it would need gigabytes of memory."""

ImageInput = str | os.PathLike[str] | NDArray[Any] | Image.Image
"""A file, or pixels as `array_to_rgb` accepts them, or an image of Pillow."""

_FORMATS = {
    b"ftyphei": "HEIC",
    b"ftyphev": "HEIC",
    b"ftypmif1": "HEIC or AVIF",
    b"ftypmsf1": "HEIC or AVIF",
    b"ftypavi": "AVIF",
    b"JXL ": "JPEG XL",
    b"ftyp": "MP4 or another video",
    b"\xff\x0a": "JPEG XL",
    b"\x1a\x45\xdf\xa3": "WebM or Matroska (video)",
    b"%PDF": "PDF",
    b"<svg": "SVG",
    b"<?xml": "SVG or XML",
}
"""Formats that Pillow lacks or may lack, by bytes that occur near the start of such a file."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_METADATA = frozenset({b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"tIME"})

_DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


def load_image(image: ImageInput) -> NDArray[np.uint8]:
    """Load any image that Pillow reads as RGB [H, W, 3], uint8, in sRGB.

    HEIC is read if pillow-heif is installed. Files are rotated according to their EXIF data, and an animation
    yields its first frame. See `image_to_rgb` and `array_to_rgb` for what becomes of other modes and types.

    Raises:
        InputError: the file is missing, unreadable, not an image, damaged, too small or too large, or the
            pixels have another shape, type or range.
    """
    name = name_image(image)
    if isinstance(image, str | os.PathLike):
        return _read_file(require_input_file(image, "image"))
    if isinstance(image, Image.Image):
        return _decode(image, name)
    try:
        values = np.asarray(image)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name}: is a {type(image).__name__}; give a file or an array") from error
    pixels = array_to_rgb(values, name)
    _check_size(name, pixels.shape[1], pixels.shape[0])
    return pixels


def name_image(image: ImageInput) -> str:
    """Return the name of an image in messages."""
    return f"image {os.fspath(image)}" if isinstance(image, str | os.PathLike) else "image"


def _read_file(file: Path) -> NDArray[np.uint8]:
    name = name_image(file)
    with file.open("rb") as stream:
        start = stream.read(512)
    if _name_format(start).startswith("HEIC"):
        _register_heif()
    try:
        try:
            return _open_and_decode(file, name)
        except _DECODING_ERRORS:
            # Pillow refuses PNG files for damaged or very long texts, which say nothing about the pixels.
            if not start.startswith(_PNG_SIGNATURE):
                raise
            return _open_and_decode(io.BytesIO(_strip_png(file.read_bytes())), name)
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: {_explain_format(_name_format(start))}") from error
    except _DECODING_ERRORS as error:
        raise InputError(f"{name}: is damaged or incomplete") from error


def _open_and_decode(source: Path | io.BytesIO, name: str) -> NDArray[np.uint8]:
    try:
        # Pillow only warns about images of up to twice its limit and raises an error beyond; its other
        # warnings are about metadata.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source) as image:
                return _decode(image, name)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{name}: is too large, at most {MAX_PIXELS // 10**6} million pixels") from error


def _decode(image: Image.Image, name: str) -> NDArray[np.uint8]:
    _check_size(name, image.width, image.height)
    image.load()
    return image_to_rgb(image)


def _register_heif() -> None:
    """Let Pillow read HEIC if the package for it is installed."""
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()


def _name_format(start: bytes) -> str:
    """Return the name of a format that Pillow may lack, given the first bytes of a file; else nothing."""
    return next((name for mark, name in _FORMATS.items() if mark in start), "")


def _explain_format(name: str) -> str:
    """Return what is wrong with a file of the named format, and the way out."""
    if not name:
        return "is not an image that can be read"
    way_out = ", or install pillow-heif" if name.startswith("HEIC") else ""
    return f"is a file in the format {name}, which cannot be read here; save it as JPEG or PNG{way_out}"


def _strip_png(data: bytes) -> bytes:
    """Return a PNG file without its metadata."""
    kept = [_PNG_SIGNATURE]
    position = len(_PNG_SIGNATURE)
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        chunk = data[position : position + length + 12]
        position += len(chunk)
        if chunk[4:8] not in _PNG_METADATA:
            kept.append(chunk)
    return b"".join(kept)


def contact_sheet(frames: Sequence[NDArray[np.uint8]], num_columns: int = 6) -> NDArray[np.uint8]:
    """Arrange frames [H, W, 3], uint8, at least one, row by row in a grid [rows * H, columns * W, 3].

    Unused cells are grey.
    """
    height, width = frames[0].shape[:2]
    columns = min(num_columns, len(frames))
    rows = -(-len(frames) // columns)
    sheet = np.full((rows * height, columns * width, 3), NEUTRAL_GREY[0], dtype=np.uint8)
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


def _check_size(name: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{name}: {width}x{height} pixels are too many, at most {MAX_PIXELS // 10**6} million"
        )
    if min(width, height) < MIN_SIDE:
        raise InputError(f"{name}: {width}x{height} pixels is too small, at least {MIN_SIDE}x{MIN_SIDE}")


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
