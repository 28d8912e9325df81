"""Pictures of every size and mode become RGB; files that are no pictures are refused in one line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from livetalk.errors import InputError, OutputError
from livetalk.media.image import Stamp, contact_sheet, load_image, save_png


def gradient(height: int = 48, width: int = 64) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([rows * 255 // height, columns * 255 // width, np.full_like(rows, 90)], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("RGB", "a.png"),
        ("L", "a.png"),
        ("1", "a.png"),
        ("P", "a.gif"),
        ("LA", "a.png"),
        ("RGBA", "a.webp"),
        ("CMYK", "a.jpg"),
        ("CMYK", "a.tif"),
        ("YCbCr", "a.jpg"),
        ("RGB", "a.bmp"),
        ("F", "a.tif"),
        ("I;16", "a.png"),
        ("I", "a.tif"),
    ],
)
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str, name: str) -> None:
    original = gradient()
    if mode.startswith("I"):
        grey_16 = np.asarray(original.convert("L"), dtype=np.int32) * 257
        Image.fromarray(grey_16.astype(np.uint16) if mode == "I;16" else grey_16).save(tmp_path / name)
    else:
        original.convert(mode).save(tmp_path / name)
    image = load_image(tmp_path / name)
    assert image.shape == (48, 64, 3)
    assert image.dtype == np.uint8
    grey = np.asarray(original.convert("L")).astype(float)
    assert np.corrcoef(image.mean(axis=2).ravel(), grey.ravel())[0, 1] > (0.3 if mode == "1" else 0.85)
    if mode not in ("1", "CMYK"):
        assert abs(image.mean() - grey.mean()) < 20


def test_sixteen_bits_keep_their_brightness(tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 40), 32_896, np.uint16)).save(tmp_path / "a.png")
    assert np.unique(load_image(tmp_path / "a.png")).tolist() == [128]


def test_transparency_becomes_neutral_grey(tmp_path: Path) -> None:
    pixels = np.zeros((40, 40, 4), np.uint8)
    pixels[:20] = (10, 200, 30, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = load_image(tmp_path / "a.png")
    assert image[5, 5].tolist() == [10, 200, 30]
    assert image[30, 5].tolist() == [128, 128, 128]


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    gradient().save(tmp_path / "a.jpg", exif=exif, quality=95)
    image = load_image(tmp_path / "a.jpg")
    assert image.shape == (64, 48, 3)
    expected = np.asarray(gradient().rotate(-90, expand=True)).astype(float)
    assert np.abs(image - expected).mean() < 6


def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (40, 40), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert load_image(tmp_path / "a.gif")[0, 0].tolist() == [255, 0, 0]


def test_files_that_are_no_picture_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("not a picture\n" * 100)
    empty = tmp_path / "empty.png"
    empty.touch()
    gradient().save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    truncated_jpg = tmp_path / "truncated.jpg"
    truncated_jpg.write_bytes(whole[: len(whole) // 2])
    gradient().save(tmp_path / "whole.png")
    truncated_png = tmp_path / "truncated.png"
    truncated_png.write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    tiny = tmp_path / "tiny.png"
    Image.new("RGB", (1, 1)).save(tiny)
    huge = tmp_path / "huge.png"
    Image.new("1", (20_000, 20_000)).save(huge)
    wide = tmp_path / "wide.png"
    Image.new("1", (9_100, 9_100)).save(wide)
    for path, message in [
        (tmp_path / "missing.png", "no such file"),
        (tmp_path, "is a directory"),
        (empty, "is empty"),
        (text, "is not an image"),
        (truncated_jpg, "is damaged or incomplete"),
        (truncated_png, "is damaged or incomplete"),
        (tiny, "1x1 pixels is too small"),
        (huge, "is too large"),
        (wide, "9100x9100 pixels are too many"),
    ]:
        with pytest.raises(InputError, match=message) as caught:
            load_image(path)
        assert "\n" not in str(caught.value)


def test_a_contact_sheet_lays_frames_out_in_rows(tmp_path: Path) -> None:
    frames = [np.full((4, 6, 3), value, np.uint8) for value in (1, 2, 3, 4, 5)]
    sheet = contact_sheet(frames, num_columns=3)
    assert sheet.shape == (8, 18, 3)
    assert sheet[::4, ::6, 0].tolist() == [[1, 2, 3], [4, 5, 128]]
    path = save_png(tmp_path / "sheet.png", sheet)
    assert np.array_equal(np.asarray(Image.open(path)), sheet)


def test_a_picture_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        save_png(tmp_path / "missing.txt" / ("x" * 300), np.zeros((4, 4, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("height", "width"), [(16, 16), (64, 48), (416, 720)])
def test_a_stamp_is_a_band_with_white_letters(height: int, width: int) -> None:
    frames = np.full((2, height, width, 3), 100, dtype=np.uint8)
    stamped = Stamp("NOISE").apply(frames)
    assert (frames == 100).all()
    assert np.array_equal(stamped[0], stamped[1])
    changed = np.flatnonzero((stamped[0] != 100).any(axis=(1, 2)))
    assert changed[0] >= height // 4 and changed[-1] < 3 * height // 4
    assert len(changed) >= 8
    assert stamped.min() == 0
    assert width < 100 or stamped.max() > 240
