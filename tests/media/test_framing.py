"""Faces are found and framed like the training portraits; pictures without one are refused."""

from importlib import resources
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from livetalk.errors import InputError
from livetalk.media.framing import FACE_CENTER, FACE_SIDE, find_face, frame_portrait
from livetalk.media.image import load_image, resize_and_center_crop

PORTRAITS = sorted((Path(str(resources.files("livetalk"))) / "assets" / "portraits").glob("*.png"))
SIZE = 256


def face_of(image: NDArray[np.uint8]) -> tuple[float, float, float]:
    """Return centre and side of the face as shares of the picture's height."""
    face = find_face(image)
    assert face is not None
    height = image.shape[0]
    return (face.left + face.width / 2) / height, (face.top + face.height / 2) / height, face.height / height


def pattern(height: int, width: int) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[0:height, 0:width]
    picture = np.full((height, width, 3), 40, dtype=np.uint8)
    picture[..., 0] = rows * 255 // height
    picture[..., 1] = columns * 255 // width
    return picture


def scene(portrait: NDArray[np.uint8], side: int, left: int, top: int) -> NDArray[np.uint8]:
    """Paste a portrait of side x side pixels into a wide picture of nobody."""
    picture = pattern(700, 1000)
    picture[top : top + side, left : left + side] = cv2.resize(
        portrait, (side, side), interpolation=cv2.INTER_AREA
    )
    return picture


def test_portraits_are_shipped() -> None:
    assert len(PORTRAITS) >= 12


@pytest.mark.parametrize("path", PORTRAITS, ids=lambda path: path.stem)
def test_a_shipped_portrait_is_kept_almost_as_it_is(path: Path) -> None:
    image = load_image(path)
    framed = frame_portrait(image, SIZE, SIZE)
    assert framed.shape == (SIZE, SIZE, 3)
    center_x, center_y, side = face_of(framed)
    # The box of a turned head lies off its middle.
    assert abs(center_x - FACE_CENTER[0]) < 0.1
    assert abs(center_y - FACE_CENTER[1]) < 0.08
    assert abs(side - FACE_SIDE) < 0.08


@pytest.mark.parametrize(
    ("side", "left", "top"), [(250, 60, 30), (250, 700, 400), (400, 300, 200), (650, 200, 30)]
)
def test_a_face_anywhere_is_framed_the_same_way(side: int, left: int, top: int) -> None:
    framed = frame_portrait(scene(load_image(PORTRAITS[0]), side, left, top), SIZE, SIZE)
    center_x, center_y, face_side = face_of(framed)
    assert abs(center_x - FACE_CENTER[0]) < 0.08
    assert abs(center_y - FACE_CENTER[1]) < 0.08
    assert abs(face_side - FACE_SIDE) < 0.08


def test_a_tight_crop_gets_room_around_the_face() -> None:
    portrait = load_image(PORTRAITS[0])
    height = portrait.shape[0]
    tight = portrait[height // 6 : 3 * height // 4, height // 5 : 4 * height // 5]
    _, _, side = face_of(frame_portrait(tight, SIZE, SIZE))
    assert side < 0.62


def test_a_wide_result_keeps_the_face_in_proportion() -> None:
    framed = frame_portrait(scene(load_image(PORTRAITS[0]), 400, 300, 200), 128, 224)
    assert framed.shape == (128, 224, 3)
    face = find_face(framed)
    assert face is not None
    assert abs(face.height / 128 - FACE_SIDE) < 0.08
    assert abs((face.left + face.width / 2) / 224 - FACE_CENTER[0]) < 0.08


def test_the_larger_of_two_faces_is_taken() -> None:
    picture = scene(load_image(PORTRAITS[0]), 500, 30, 150)
    picture[40:240, 760:960] = cv2.resize(load_image(PORTRAITS[1]), (200, 200), interpolation=cv2.INTER_AREA)
    face = find_face(picture)
    assert face is not None
    assert 30 < face.left < 530


@pytest.mark.parametrize("seed", [0, 1])
def test_a_picture_of_nobody_is_refused_with_the_way_out(seed: int) -> None:
    blobs = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    picture = cv2.resize(blobs, (600, 450), interpolation=cv2.INTER_CUBIC)
    with pytest.raises(InputError, match=r"^image a\.png: no face was found; .*--crop center$"):
        frame_portrait(picture.astype(np.uint8), SIZE, SIZE, name="image a.png")


def test_center_takes_the_middle_and_none_the_whole() -> None:
    picture = pattern(100, 300)
    middle = frame_portrait(picture, 64, 64, crop="center")
    assert abs(int(middle[32, 0, 1]) - 85) < 6
    assert abs(int(middle[32, -1, 1]) - 170) < 6
    whole = frame_portrait(picture, 63, 63, crop="none")
    assert whole.shape == (63, 63, 3)
    assert int(whole[31, 0, 1]) < 8
    assert int(whole[31, -1, 1]) > 247
    assert (whole[..., 2] == 40).all()


@pytest.mark.parametrize("shape", [(32, 32), (33, 1000), (1000, 33), (500, 400)])
@pytest.mark.parametrize("crop", ["center", "none", "published"])
def test_every_shape_gives_the_size_asked_for(shape: tuple[int, int], crop: str) -> None:
    framed = frame_portrait(pattern(*shape), 48, 80, crop=crop)  # type: ignore[arg-type]
    assert framed.shape == (48, 80, 3)
    assert framed.dtype == np.uint8


def test_published_framing_is_the_published_function() -> None:
    picture = pattern(120, 300)
    framed = frame_portrait(picture, 64, 48, crop="published")
    assert np.array_equal(framed, resize_and_center_crop(picture, 64, 48))
    center = frame_portrait(picture, 64, 48, crop="center")
    assert 0 < np.abs(framed.astype(int) - center).max() < 12
