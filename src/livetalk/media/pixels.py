"""Pixels of images of every mode, colour profile and type as RGB, uint8."""

import contextlib
import io
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from livetalk.errors import InputError

NEUTRAL_GREY = (128, 128, 128)
"""Colour of transparent parts."""

METADATA_ERRORS = (OSError, SyntaxError, ValueError, LookupError, TypeError, EOFError, struct.error)
"""Errors that Pillow raises for damaged EXIF data and colour profiles."""


def image_to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Convert a decoded image to RGB [H, W, 3], uint8, in sRGB, rotated according to its EXIF data.

    Transparent parts become neutral grey; 16-bit and floating-point images are reduced to 8 bits. Damaged
    EXIF data and colour profiles are ignored.
    """
    profile = image.info.get("icc_profile")
    image = _rotate(image)
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_to_8_bits(np.asarray(image, dtype=np.float32), image.mode))
    if not image.has_transparency_data:
        return np.array(_to_srgb(image, profile))
    layer = _to_srgb(image.convert("L" if image.mode == "LA" else "RGB"), profile)
    layer.putalpha(image.convert("RGBA").getchannel("A"))
    backdrop = Image.new("RGBA", layer.size, (*NEUTRAL_GREY, 255))
    return np.array(Image.alpha_composite(backdrop, layer).convert("RGB"))


def array_to_rgb(values: NDArray[Any], name: str = "image") -> NDArray[np.uint8]:
    """Convert pixels to RGB [H, W, 3], uint8.

    `values` is [H, W], [H, W, 1] (grey), [H, W, 2] (grey, alpha), [H, W, 3] (RGB) or [H, W, 4] (RGBA);
    uint8, uint16, bool, floating point 0..1 or 0..255, or other integers 0..255. `name` is that of the image
    in messages.

    Raises:
        InputError: another shape or type, or values outside their range.
    """
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (1, 2, 3, 4)):
        shape = list(values.shape)
        raise InputError(f"{name}: pixels have the shape {shape}, [height, width, 3] is needed")
    pixels = _scale(values, name)
    if pixels.ndim == 3 and pixels.shape[2] == 3:
        return pixels
    return image_to_rgb(Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels))


def _scale(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Scale pixels of any type to 0..255."""
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind not in "biuf":
        raise InputError(f"{name}: pixels are {values.dtype}; give uint8, uint16 or floating point 0..1")
    if values.dtype == np.uint16:
        return (values / np.float32(257.0)).round().astype(np.uint8)
    smallest, largest = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not (np.isfinite([smallest, largest]).all() and smallest >= 0.0 and largest <= 255.0):
        raise InputError(f"{name}: pixels are {smallest:g} to {largest:g}; give uint8 or floating point 0..1")
    is_fraction = values.dtype.kind in "bf" and largest <= 1.0
    return (values * np.float64(255.0 if is_fraction else 1.0)).round().astype(np.uint8)


def _rotate(image: Image.Image) -> Image.Image:
    with contextlib.suppress(*METADATA_ERRORS):
        return ImageOps.exif_transpose(image)
    return image


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert an image without transparency to RGB, from its colour profile to sRGB."""
    if image.mode in ("1", "P"):
        image = image.convert("RGB")
    converted = None
    if profile:
        with contextlib.suppress(ImageCms.PyCMSError, *METADATA_ERRORS):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            target = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    return converted or image.convert("RGB")


def _to_8_bits(values: NDArray[np.float32], mode: str) -> NDArray[np.uint8]:
    """Scale grey values to 0..255: integers span 16 bits, floating point 0..1 or else 0..255."""
    if mode.startswith("I"):
        values = values / 257.0
    elif np.nanmax(values) <= 1.0:
        values = values * 255.0
    return np.nan_to_num(values).clip(0.0, 255.0).round().astype(np.uint8)
