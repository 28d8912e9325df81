"""Reported portraits: faces that are turned, and images without a face."""

from collections.abc import Callable
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from livetalk.errors import InputError
from livetalk.media.framing import FACE_CENTER, FACE_SIDE, find_face, frame_portrait
from livetalk.media.image import load_image
from reported import Case

PORTRAITS = Path(str(resources.files("livetalk"))) / "assets" / "portraits"


def load_portrait(name: str = "avatar-313") -> NDArray[np.uint8]:
    """Return a shipped portrait, [512, 512, 3]."""
    return load_image(PORTRAITS / f"{name}.png")


def turned(name: str, degrees: int) -> Callable[[Path, pytest.MonkeyPatch], None]:
    """A turned portrait is found, said to be turned, and framed upright."""

    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lines: list[str] = []
        logger = "livetalk.media.framing._logger.warning"
        monkeypatch.setattr(logger, lambda text, *args: lines.append(text % args))
        image = Image.fromarray(load_portrait(name)).rotate(degrees, Image.Resampling.BICUBIC, expand=True)
        framed = frame_portrait(np.asarray(image), 256, 256, name="image a.png")
        face = find_face(framed)
        assert face is not None
        assert face.height / 256 == pytest.approx(FACE_SIDE, abs=0.08)
        assert (face.left + face.width / 2) / 256 == pytest.approx(FACE_CENTER[0], abs=0.1)
        assert (face.top + face.height / 2) / 256 == pytest.approx(FACE_CENTER[1], abs=0.08)
        assert len(lines) == 1
        assert lines[0].startswith("image a.png: turned by ")

    return check


def small_face(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small face, of which the detector is not certain, is confirmed by its eyes."""
    scene = np.full((512, 512, 3), 90, np.uint8)
    scene[200:260, 200:260] = cv2.resize(load_portrait(), (60, 60), interpolation=cv2.INTER_AREA)
    face = find_face(scene)
    assert face is not None
    assert 200 < face.left < face.left + face.width < 260


def half_face(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A face without eyes is no face."""
    image = load_portrait()
    image[:230] = image[230]
    with pytest.raises(InputError, match=r"^image a\.png: no face was found; .*--crop center$"):
        frame_portrait(image, 256, 256, name="image a.png")


CASES = (
    Case("faces", "turned by 45 degrees", turned("avatar-313", 45)),
    Case("faces", "lying on its side", turned("avatar-320", -90)),
    Case("faces", "upside down", turned("avatar-302", 180)),
    Case("faces", "a small face", small_face),
    Case("faces", "a mouth without eyes", half_face),
)
