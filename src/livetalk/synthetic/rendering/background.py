"""Blurred backgrounds: studio gradients, rooms, offices, lights out of focus, outdoors."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from livetalk.synthetic.people.identity import Identity

_SIZE = 128

Picture = NDArray[np.float32]


def make_background(identity: Identity, size: int, device: torch.device) -> Tensor:
    """Create the background of an identity in linear light, [size, size, 3]."""
    rng = np.random.default_rng(identity.scene_seed)
    base = np.array(identity.scene_colour, np.float32)
    painter = {"studio": _studio, "room": _room, "office": _office, "bokeh": _bokeh, "outdoor": _outdoor}
    picture, blur = painter[identity.scene](rng, base)
    rows, columns = _grid()
    vignette = 1 - 0.28 * ((columns - 0.5) ** 2 + (rows - 0.5) ** 2) * 2
    light = np.array(identity.light.sky, np.float32) * 0.75 + 0.35
    tensor = (
        torch.from_numpy(np.ascontiguousarray(picture * vignette[..., None] * light))
        .to(device)
        .permute(2, 0, 1)[None]
    )
    tensor = gaussian_blur(tensor, blur)
    tensor = F.interpolate(tensor, size=(size, size), mode="bicubic", align_corners=False)
    return tensor[0].permute(1, 2, 0).clamp(0.002, 4).contiguous()


def _grid() -> tuple[Picture, Picture]:
    """Return row and column positions, 0..1."""
    line = (np.arange(_SIZE, dtype=np.float32) + 0.5) / _SIZE
    rows, columns = np.meshgrid(line, line, indexing="ij")
    return rows, columns


def gaussian_blur(picture: Tensor, sigma: float) -> Tensor:
    """Blur pictures [B, 3, S, S] with a Gaussian, sigma in pixels, with repeated edges."""
    radius = max(1, int(3 * sigma))
    steps = torch.arange(-radius, radius + 1, device=picture.device, dtype=picture.dtype)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = (kernel / kernel.sum()).repeat(3, 1, 1)
    padded = F.pad(picture, (radius, radius, radius, radius), mode="replicate")
    padded = F.conv2d(padded, kernel[:, :, :, None], groups=3)
    return F.conv2d(padded, kernel[:, :, None, :], groups=3)


def _near(rng: np.random.Generator, base: Picture, low: float, high: float, tint: float = 0.12) -> Picture:
    """Draw a colour close to another: brightness times low..high, hue slightly changed."""
    colour = base * rng.uniform(low, high) * (1 + rng.normal(0, tint, 3))
    return np.clip(colour, 0.004, 1.2).astype(np.float32)


def _rectangle(
    picture: Picture, box: tuple[float, float, float, float], colour: Picture, alpha: float = 1.0
) -> None:
    """Paint a rectangle (top, bottom, left, right, 0..1)."""
    rows, columns = _grid()
    inside = (rows >= box[0]) & (rows < box[1]) & (columns >= box[2]) & (columns < box[3])
    picture[inside] = picture[inside] * (1 - alpha) + colour * alpha


def _blob(
    picture: Picture, centre: tuple[float, float], radius: float, colour: Picture, soft: float = 0.2
) -> None:
    """Paint a round spot."""
    rows, columns = _grid()
    distance = np.sqrt((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2) / radius
    alpha = np.clip((1 - distance) / soft, 0, 1)[..., None]
    picture += (colour - picture) * alpha


def _wall(rng: np.random.Generator, base: Picture) -> Picture:
    """Create a wall with a gradient of light."""
    rows, columns = _grid()
    angle = rng.uniform(0, 2 * np.pi)
    ramp = (columns - 0.5) * np.cos(angle) + (rows - 0.5) * np.sin(angle)
    shade = 1 + rng.uniform(0.15, 0.6) * ramp
    return np.asarray(base * shade[..., None], np.float32)


def _studio(rng: np.random.Generator, base: Picture) -> tuple[Picture, float]:
    """Create a paper backdrop with a bright area behind the head."""
    rows, columns = _grid()
    distance = (columns - rng.uniform(0.3, 0.7)) ** 2 + (rows - rng.uniform(0.25, 0.6)) ** 2
    pool = np.exp(-distance / rng.uniform(0.08, 0.3))
    shade = rng.uniform(0.45, 0.8) + rng.uniform(0.3, 0.8) * pool
    return np.asarray(base * shade[..., None], np.float32), 3.0


def _room(rng: np.random.Generator, base: Picture) -> tuple[Picture, float]:
    """Create a room: a wall, perhaps with a window, shelves, a picture, a plant, a lamp."""
    picture = _wall(rng, base)
    if rng.random() < 0.5:
        left = rng.choice([rng.uniform(-0.1, 0.15), rng.uniform(0.7, 0.9)])
        frame = (rng.uniform(0.0, 0.15), rng.uniform(0.5, 0.75), left, left + rng.uniform(0.2, 0.35))
        _rectangle(picture, frame, np.array([0.85, 0.9, 0.95], np.float32) * rng.uniform(0.7, 1.3))
    if rng.random() < 0.6:
        _shelf(rng, picture, base)
    if rng.random() < 0.5:
        top, left = rng.uniform(0.08, 0.3), rng.choice([rng.uniform(0.03, 0.15), rng.uniform(0.7, 0.82)])
        box = (top, top + rng.uniform(0.15, 0.3), left, left + rng.uniform(0.12, 0.22))
        _rectangle(picture, box, _near(rng, base, 0.2, 1.4, 0.12))
    if rng.random() < 0.5:
        _plant(rng, picture)
    if rng.random() < 0.35:
        lamp = np.array([1.2, 0.85, 0.5], np.float32) * rng.uniform(0.6, 1.2)
        _blob(
            picture,
            (rng.uniform(0.1, 0.5), rng.choice([rng.uniform(0.05, 0.2), rng.uniform(0.8, 0.95)])),
            0.1,
            lamp,
            0.8,
        )
    if rng.random() < 0.3:
        _rectangle(picture, (rng.uniform(0.72, 0.85), 1.0, 0.0, 1.0), _near(rng, base, 0.25, 0.6, 0.2))
    return picture, float(rng.uniform(1.6, 4.5))


def _shelf(rng: np.random.Generator, picture: Picture, base: Picture) -> None:
    """Paint shelves with books on one side."""
    left = float(rng.choice([rng.uniform(-0.1, 0.05), rng.uniform(0.62, 0.8)]))
    right = left + rng.uniform(0.25, 0.4)
    wood = np.array([0.16, 0.09, 0.05], np.float32) * rng.uniform(0.4, 2)
    _rectangle(picture, (0.0, 1.0, left, right), wood * 0.6)
    for top in np.arange(rng.uniform(-0.1, 0.1), 1, rng.uniform(0.2, 0.28)):
        x = left + 0.01
        while x < right - 0.03:
            width = rng.uniform(0.012, 0.045)
            height = rng.uniform(0.1, 0.17)
            if rng.random() < 0.85:
                colour = _near(rng, np.array([0.22, 0.19, 0.17], np.float32), 0.2, 1.8, 0.10)
                _rectangle(picture, (top + 0.19 - height, top + 0.19, x, x + width), colour)
            x += width
        _rectangle(picture, (top + 0.19, top + 0.205, left, right), wood)
    del base


def _plant(rng: np.random.Generator, picture: Picture) -> None:
    """Paint dark green leaves."""
    centre = rng.uniform(0.45, 0.85), float(rng.choice([rng.uniform(0.02, 0.18), rng.uniform(0.82, 0.98)]))
    for _ in range(int(rng.integers(8, 18))):
        green = np.array([0.05, 0.10, 0.035], np.float32) * rng.uniform(0.4, 2.2)
        spot = centre[0] + rng.normal(0, 0.09), centre[1] + rng.normal(0, 0.06)
        _blob(picture, spot, rng.uniform(0.02, 0.06), green, 0.4)


def _office(rng: np.random.Generator, base: Picture) -> tuple[Picture, float]:
    """Create an office: glass partitions, screens, ceiling lights."""
    picture = _wall(rng, base * 0.8 + 0.05)
    for _ in range(int(rng.integers(2, 5))):
        left = rng.uniform(-0.1, 0.95)
        _rectangle(
            picture,
            (0, rng.uniform(0.6, 1), left, left + rng.uniform(0.08, 0.3)),
            _near(rng, base, 0.5, 1.6),
            0.6,
        )
    for _ in range(int(rng.integers(1, 4))):
        left, top = rng.uniform(0, 0.9), rng.uniform(0.45, 0.75)
        _rectangle(picture, (top, top + 0.14, left, left + 0.18), np.array([0.02, 0.025, 0.03], np.float32))
    for _ in range(int(rng.integers(0, 5))):
        left = rng.uniform(0, 0.9)
        _rectangle(picture, (0.02, 0.05, left, left + 0.14), np.array([1.1, 1.1, 1.05], np.float32))
    _rectangle(picture, (rng.uniform(0.75, 0.9), 1, 0, 1), _near(rng, base, 0.3, 0.7))
    return picture, float(rng.uniform(2.0, 4.5))


def _bokeh(rng: np.random.Generator, base: Picture) -> tuple[Picture, float]:
    """Create evening lights out of focus in front of a dark backdrop."""
    picture = _wall(rng, base * 0.35 + 0.015)
    for _ in range(int(rng.integers(10, 28))):
        warm = np.array([1.0, rng.uniform(0.55, 0.9), rng.uniform(0.25, 0.7)], np.float32)
        colour = warm * rng.uniform(0.1, 0.55)
        _blob(
            picture,
            (rng.uniform(0, 0.8), rng.uniform(0, 1)),
            rng.uniform(0.025, 0.06),
            picture.mean((0, 1)) + colour,
            0.25,
        )
    return picture, float(rng.uniform(1.0, 1.8))


def _outdoor(rng: np.random.Generator, base: Picture) -> tuple[Picture, float]:
    """Create sky, distant trees or buildings, and ground."""
    rows, _ = _grid()
    sky = np.array([0.55, 0.66, 0.78], np.float32) * rng.uniform(0.5, 1.0)
    horizon = rng.uniform(0.35, 0.65)
    picture = np.asarray(sky * (0.8 + 0.5 * rows[..., None]), np.float32)
    _rectangle(picture, (horizon, 1, 0, 1), _near(rng, np.array([0.16, 0.17, 0.12], np.float32), 0.5, 1.5))
    for _ in range(int(rng.integers(6, 16))):
        if rng.random() < 0.7:
            green = np.array([0.09, 0.14, 0.06], np.float32) * rng.uniform(0.4, 1.8)
            _blob(
                picture,
                (horizon + rng.normal(0, 0.08), rng.uniform(0, 1)),
                rng.uniform(0.05, 0.16),
                green,
                0.5,
            )
        else:
            left = rng.uniform(0, 0.9)
            _rectangle(
                picture,
                (horizon - rng.uniform(0.1, 0.3), horizon + 0.1, left, left + rng.uniform(0.1, 0.25)),
                _near(rng, base, 0.5, 1.3),
            )
    return picture, float(rng.uniform(3.0, 6.0))
