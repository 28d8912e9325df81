"""Busy backgrounds with the statistics of natural pictures: occluding shapes, 1/f noise, walls, pages."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from livetalk.synthetic.noise import Noise
from livetalk.synthetic.people.world import Backdrop
from livetalk.synthetic.rendering.background import gaussian_blur
from livetalk.synthetic.rendering.prints import printed

Picture = NDArray[np.float32]

_SHAPES = 260
_WALL = 4.0
"""Decimetres that a wall shows over the height of the frame."""


def make_backdrop(
    backdrop: Backdrop, light: tuple[float, float, float], size: int, device: torch.device
) -> Tensor:
    """Create a background in linear light, [size, size, 3]; `light` multiplies it."""
    rng = np.random.default_rng(backdrop.seed)
    if backdrop.kind in ("wall", "page"):
        picture = _wall(backdrop, size, device)
    else:
        picture = torch.from_numpy(_shapes(backdrop, rng, size)).to(device)
    uneven = torch.from_numpy(natural_noise(rng, size)).to(device)
    picture = picture * (0.35 * uneven).exp()
    tensor = picture.permute(2, 0, 1)[None]
    if backdrop.blur > 0:
        tensor = gaussian_blur(tensor, backdrop.blur * size)
    shade = torch.tensor(light, device=device) * 0.7 + 0.3
    return (tensor[0].permute(1, 2, 0) * shade * backdrop.gain).clamp(0.001, 4).contiguous()


def natural_noise(rng: np.random.Generator, size: int) -> Picture:
    """Return noise [size, size, 3] of unit variance whose amplitude falls with frequency, partly grey."""
    slope = rng.uniform(0.8, 1.5)
    row, column = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    frequency = np.sqrt(row**2 + column**2)
    frequency[0, 0] = 1.0
    white = rng.standard_normal((4, size, size), dtype=np.float32)
    spectrum = np.fft.rfft2(white) / frequency**slope
    spectrum[:, 0, 0] = 0
    fields = np.fft.irfft2(spectrum, s=(size, size))
    fields /= fields.std(axis=(1, 2), keepdims=True)
    colourful = rng.uniform(0.0, 0.4)
    mixed = (1 - colourful) * fields[:1] + colourful * fields[1:]
    return np.ascontiguousarray(mixed.transpose(1, 2, 0), np.float32)


def _wall(backdrop: Backdrop, size: int, device: torch.device) -> Tensor:
    """Return a wall or a page with a print, [size, size, 3]."""
    line = (torch.arange(size, device=device) + 0.5) / size * _WALL
    up, across = torch.meshgrid(line, line, indexing="ij")
    ground = torch.tensor(backdrop.colours[0], device=device).expand(size * size, 3)
    noise = Noise(backdrop.print.seed, device)
    return printed(backdrop.print, ground, across.reshape(-1), up.reshape(-1), noise).view(size, size, 3)


def _shapes(backdrop: Backdrop, rng: np.random.Generator, size: int) -> Picture:
    """Return shapes that cover each other, with sizes by a power law, [size, size, 3].

    Such pictures have edges and spectra like natural ones. `noise` has none, only the ground's noise.
    """
    colours = np.array(backdrop.colours, np.float32)
    picture = np.empty((size, size, 3), np.float32)
    picture[:] = colours[0]
    if backdrop.kind == "noise":
        return picture
    # Sizes with a density of r^-2 between bounds: many small parts, but large ones cover as much.
    low, high = 0.02, 0.5
    draws = rng.random(_SHAPES)
    radii = size / (draws / low + (1 - draws) / high)
    for radius in radii:
        colour = colours[rng.integers(len(colours))] * np.exp(rng.normal(0, 0.35, 3)).astype(np.float32)
        _paint(picture, rng, float(radius), colour)
    return picture


def _paint(picture: Picture, rng: np.random.Generator, radius: float, colour: Picture) -> None:
    """Paint one shape with a shaded or striped surface, in place."""
    size = len(picture)
    row, column = rng.uniform(-0.05, 1.05, 2) * size
    top, bottom = max(0, int(row - radius)), min(size, int(row + radius) + 2)
    left, right = max(0, int(column - radius)), min(size, int(column + radius) + 2)
    if top >= bottom or left >= right:
        return
    y = (np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(row)) / np.float32(radius)
    x = (np.arange(left, right, dtype=np.float32)[None] - np.float32(column)) / np.float32(radius)
    angle = rng.choice([0.0, rng.uniform(0, np.pi)], p=[0.6, 0.4])
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    narrow = rng.uniform(1.0, 5.0)
    kind = rng.random()
    if kind < 0.45:
        inside = (np.abs(u) < 0.7) & (np.abs(v) * narrow < 0.7)
    elif kind < 0.85:
        inside = u**2 + (v * narrow) ** 2 < 1
    else:
        inside = (v > -0.5) & (np.abs(u) * 1.7 < 0.5 - v * 0.5)
    shade = 1 + rng.uniform(-0.4, 0.4) * u + rng.uniform(-0.4, 0.4) * v
    if rng.random() < 0.25:
        shade = shade * (1 + rng.uniform(0.2, 0.7) * np.sign(np.sin(u * rng.uniform(6, 40))))
    part = picture[top:bottom, left:right]
    part[inside] = (shade[..., None] * colour)[inside]
