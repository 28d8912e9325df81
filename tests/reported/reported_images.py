"""Reported images: colours, metadata, formats of phones and pixels of other types."""

import io
import struct
import sys
import types
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from livetalk.errors import InputError
from livetalk.media.image import load_image
from reported import Case

D50 = (0.9642, 1.0, 0.8249)
DISPLAY_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
"""Colorants of public standards, adapted to D50: XYZ of red, green and blue."""


def gradient() -> NDArray[np.uint8]:
    """Return skin-like colours, [48, 64, 3]."""
    rows, columns = np.mgrid[0:48, 0:64]
    pixels = np.stack([120 + rows * 2, 90 + columns, 80 + rows], axis=-1)
    return pixels.astype(np.uint8)


def profile(curve: float, **colorants: tuple[float, float, float]) -> bytes:
    """Return an ICC profile with these colorants (rXYZ and so on) and one exponent for all curves."""

    def numbers(values: tuple[float, ...]) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65_536)) for value in values)

    gamma = b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(curve * 256))
    text = b"text\0\0\0\0CC0\0"
    name = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + b"\0" * 81
    tags = {b"desc": name, b"cprt": text, b"wtpt": b"XYZ \0\0\0\0" + numbers(D50)}
    for key, value in colorants.items():
        tags[key.encode()] = b"XYZ \0\0\0\0" + numbers(value)
        tags[key[0].encode() + b"TRC"] = gamma
    if not colorants:
        tags[b"kTRC"] = gamma
    table, data, start = b"", b"", 132 + 12 * len(tags)
    for key, body in tags.items():
        body += b"\0" * (-len(body) % 4)
        table += key + struct.pack(">II", start + len(data), len(body))
        data += body
    space = b"RGB " if colorants else b"GRAY"
    head = struct.pack(">I4sI4s4s4s", start + len(data), b"lcms", 0x02100000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 24 + struct.pack(">I", 0)
    return (head + numbers(D50)).ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def rgb_profile(colorants: tuple[tuple[float, float, float], ...]) -> bytes:
    """Return the profile of a display with the exponent 2.2."""
    red, green, blue = colorants
    return profile(2.2, rXYZ=red, gXYZ=green, bXYZ=blue)


def profiled(name: str, icc: bytes, mode: str = "RGB") -> Callable[[Path, pytest.MonkeyPatch], None]:
    """Colours that were encoded with a profile are those before, within rounding and JPEG's error."""

    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source, target = ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(io.BytesIO(icc))
        image = ImageCms.profileToProfile(Image.fromarray(gradient()), source, target, outputMode="RGB")
        assert np.abs(np.asarray(image).astype(int) - gradient()).max() > 5
        image.convert(mode).save(folder / name, icc_profile=icc, quality=100)
        assert np.abs(load_image(folder / name).astype(int) - gradient()).mean() < 2

    return check


def grey_profile(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A grey image with a linear curve: 55 of 255 is half of white's lightness."""
    icc = profile(1.0)
    Image.fromarray(np.full((40, 40), 55, np.uint8)).save(folder / "a.png", icc_profile=icc)
    assert np.unique(load_image(folder / "a.png")) == pytest.approx(128, abs=3)


def ignored_profile(icc: bytes, mode: str) -> Callable[[Path, pytest.MonkeyPatch], None]:
    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        image = Image.fromarray(gradient()).convert(mode)
        image.save(folder / "a.tif", icc_profile=icc)
        image.save(folder / "plain.tif")
        assert np.array_equal(load_image(folder / "a.tif"), load_image(folder / "plain.tif"))

    return check


def chunk(kind: bytes, data: bytes, checksum: int | None = None) -> bytes:
    """Return a chunk of a PNG file."""
    checksum = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png_with(extra: bytes) -> Callable[[Path, pytest.MonkeyPatch], None]:
    """A PNG file with one more chunk is read as without it."""

    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = io.BytesIO()
        Image.fromarray(gradient()).save(stream, "PNG")
        data = stream.getvalue()
        (folder / "a.png").write_bytes(data[:33] + extra + data[33:])
        assert np.array_equal(load_image(folder / "a.png"), gradient())

    return check


def broken_exif_jpeg(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(gradient()).save(folder / "plain.jpg", quality=95)
    exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x05\x01\x12\0\x03"
    Image.fromarray(gradient()).save(folder / "a.jpg", quality=95, exif=exif)
    assert np.array_equal(load_image(folder / "a.jpg"), load_image(folder / "plain.jpg"))


def named(start: bytes, message: str) -> Callable[[Path, pytest.MonkeyPatch], None]:
    """A file in a format that cannot be read: the message names it and a way out."""

    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        (folder / "a.jpg").write_bytes(start + bytes(2000))
        with pytest.raises(InputError, match=rf"^image .*a\.jpg: is a file in the format {message}"):
            load_image(folder / "a.jpg")

    return check


def installed_heif(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With pillow-heif, or a stand-in for it where it is not installed, HEIC is an image like any other."""
    package = types.ModuleType("pillow_heif")

    def register_heif_opener() -> None:
        monkeypatch.setattr(Image, "open", lambda source: Image.fromarray(gradient()))

    package.register_heif_opener = register_heif_opener  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    (folder / "a.heic").write_bytes(b"\0\0\0\x24ftypheic" + bytes(2000))
    assert np.array_equal(load_image(folder / "a.heic"), gradient())


def same_pixels(
    convert: Callable[[NDArray[np.uint8]], Any], grey: bool = False
) -> Callable[[Path, pytest.MonkeyPatch], None]:
    """Pixels of another type are the same image."""

    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pixels = gradient()
        if grey:
            pixels = np.repeat(pixels[..., :1], 3, axis=2)
        assert np.array_equal(load_image(convert(pixels)), pixels)

    return check


def refused_pixels(pixels: Any, message: str) -> Callable[[Path, pytest.MonkeyPatch], None]:
    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(InputError, match=message) as caught:
            load_image(pixels)
        assert "\n" not in str(caught.value)

    return check


P3 = rgb_profile(DISPLAY_P3)
BROKEN_EXIF = chunk(b"eXIf", b"\0\x08\0\x02\x01\x12\0\x03")
LONG_TEXT = chunk(b"zTXt", b"XML\0\0" + zlib.compress(bytes(3_000_000)))
ALPHA = np.full((48, 64, 1), 255, np.uint8)

CASES = (
    Case("colours", "icc_displayp3.jpg", profiled("a.jpg", P3)),
    Case(
        "colours", "Adobe RGB in a PNG with transparency", profiled("a.png", rgb_profile(ADOBE_RGB), "RGBA")
    ),
    Case("colours", "a grey image with a linear profile", grey_profile),
    Case("colours", "a profile that is cut", ignored_profile(P3[:150], "RGB")),
    Case("colours", "a profile for other channels", ignored_profile(P3, "CMYK")),
    Case("colours", "a profile that is noise", ignored_profile(bytes(range(200)), "L")),
    Case("decoration", "exif_broken.png", png_with(BROKEN_EXIF)),
    Case("decoration", "a JPEG with broken EXIF data", broken_exif_jpeg),
    Case("decoration", "a PNG with a text of 3 MB", png_with(LONG_TEXT)),
    Case("decoration", "a PNG with a damaged text", png_with(chunk(b"tEXt", b"Comment\0hello", checksum=1))),
    Case("phones", "HEIC", named(b"\0\0\0\x24ftypheic", "HEIC, .*JPEG.*pillow-heif$")),
    Case(
        "phones", "HEIC of another brand", named(b"\0\0\0\x24ftypmif1\0\0\0\0mif1heic", "HEIC.*pillow-heif$")
    ),
    Case("phones", "JPEG XL", named(b"\xff\x0a", "JPEG XL, .*save it as JPEG")),
    Case("phones", "a live photo's video", named(b"\0\0\0\x14ftypqt  ", "MP4 or another video, ")),
    Case("phones", "HEIC with pillow-heif", installed_heif),
    Case("types", "an image of floats 0..1", same_pixels(lambda pixels: pixels / 255)),
    Case("types", "an image of float32 0..255", same_pixels(lambda pixels: pixels.astype(np.float32))),
    Case("types", "an image of uint16", same_pixels(lambda pixels: pixels.astype(np.uint16) * 257)),
    Case("types", "an image of int64", same_pixels(lambda pixels: pixels.astype(np.int64))),
    Case("types", "a grey image", same_pixels(lambda pixels: pixels[..., 0], grey=True)),
    Case("types", "a grey image of one channel", same_pixels(lambda pixels: pixels[..., :1], grey=True)),
    Case("types", "an image with alpha", same_pixels(lambda pixels: np.concatenate([pixels, ALPHA], axis=2))),
    Case("types", "an image of Pillow", same_pixels(Image.fromarray)),
    Case("types", "nested lists", same_pixels(lambda pixels: pixels.tolist())),
    Case(
        "types", "channels first", refused_pixels(np.zeros((3, 64, 64), np.uint8), r"\[3, 64, 64\], \[height")
    ),
    Case(
        "types", "an image of -1..1", refused_pixels(np.linspace(-1, 1, 4800).reshape(40, 40, 3), "-1 to 1;")
    ),
    Case(
        "types", "an image with NaN", refused_pixels(np.full((40, 40, 3), np.nan), "nan to nan; give uint8")
    ),
    Case("types", "no image", refused_pixels(None, r"shape \[\]")),
    Case(
        "types",
        "an image of one pixel",
        refused_pixels(np.zeros((1, 1, 3), np.uint8), "1x1 pixels is too small"),
    ),
)
