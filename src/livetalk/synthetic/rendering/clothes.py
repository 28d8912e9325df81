"""Clothes cut out of the shirt mesh: neckline and fabric."""

import torch
from torch import Tensor

from livetalk.synthetic.noise import Noise, smoothstep
from livetalk.synthetic.people.identity import Outfit
from livetalk.synthetic.people.world import Print
from livetalk.synthetic.rendering.prints import printed

_NECK = 5.86
"""Height of the base of the neck, measured along the slanted neckline plane."""


def _slanted(rest: Tensor) -> Tensor:
    """Return the height along the neckline plane, lower in front; the shoulders are always below it."""
    x, y, z = rest[..., 0].abs(), rest[..., 1], rest[..., 2]
    return y + 0.38 * (z - 0.2) - 0.9 * smoothstep(0.72, 1.4, x)


def neckline(outfit: Outfit, rest: Tensor) -> Tensor:
    """Return a value [...] at rest positions [..., 3] that is negative where the fabric is cut away."""
    x, z = rest[..., 0].abs(), rest[..., 2]
    height = _slanted(rest)
    front = smoothstep(0.1, 0.5, z)
    if outfit.kind == "turtleneck":
        return 6.17 + 0.12 * outfit.opening - height
    if outfit.kind == "v_neck":
        depth = 0.35 + 0.45 * outfit.opening
        wedge = (1 - x / 0.42).clamp(0, 1) * depth * front
        return _NECK - 0.04 - wedge - height
    if outfit.kind == "shirt":
        wedge = (1 - x / 0.26).clamp(0, 1) * (0.15 + 0.4 * outfit.opening) * front
        return _NECK + 0.13 - wedge - height
    if outfit.kind == "jacket":
        wedge = (1 - x / 0.24).clamp(0, 1) * (0.05 + 0.3 * outfit.opening) * front
        return _NECK + 0.10 - wedge - height
    scoop = (1 - (x / 0.45) ** 2).clamp(0, 1) * (0.02 + 0.16 * outfit.opening) * front
    return _NECK + 0.05 - scoop - height


def fabric(outfit: Outfit, pattern: Print | None, rest: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Return colour [N, 3] and bump gradient [N, 3] of the fabric at rest positions [N, 3].

    A `pattern` is printed on the outer garment.
    """
    x, y = rest[:, 0], rest[:, 1]
    colour = rest.new_tensor(outfit.colour).expand(len(rest), 3)
    inner = rest.new_tensor(outfit.inner).expand(len(rest), 3)
    if outfit.pattern == "stripes" and outfit.kind in ("crew", "v_neck", "turtleneck"):
        stripe = smoothstep(0.40, 0.60, torch.sin(y * 26 + 2 * x * x) * 0.5 + 0.5)
        colour = torch.lerp(colour, colour * 0.35 + 0.02, stripe[:, None] * 0.8)
    if outfit.pattern == "melange":
        colour = colour * (0.86 + 0.28 * noise.fractal(rest * 30, 2))[:, None]
    if pattern is not None:
        colour = printed(pattern, colour, x, y, noise)
    if outfit.kind == "jacket":
        colour = _jacket(outfit, rest, colour, inner)
    edge = neckline(outfit, rest)
    if outfit.kind in ("crew", "turtleneck"):
        seam = smoothstep(0.016, 0.004, (edge - 0.085).abs()) * 0.35
        colour = colour * (1 - seam)[:, None]
    if outfit.kind == "shirt":
        colour = _shirt(outfit, rest, colour, edge)
    folds = _folds(rest, noise)
    rim = 0.8 * smoothstep(0.03, 0.0, edge)
    gradient = folds + torch.stack([torch.zeros_like(x), -rim, torch.zeros_like(x)], -1)
    return colour, gradient


def _folds(rest: Tensor, noise: Noise) -> Tensor:
    """Return soft slanted folds as a slope [N, 3]."""
    x, y, z = rest.unbind(-1)
    point = torch.stack([x * 1.7 + 0.6 * y, y * 1.1 - 0.8 * x.abs(), z * 1.3], -1)
    here = noise.fractal(point, 2)
    across = noise.fractal(point + point.new_tensor([0.17, 0.0, 0.0]), 2) - here
    along = noise.fractal(point + point.new_tensor([0.0, 0.17, 0.0]), 2) - here
    return torch.stack([across, along, torch.zeros_like(x)], -1) * 1.7


def _jacket(outfit: Outfit, rest: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
    """Return the colour of lapels, the shirt between them and perhaps a tie."""
    x, y, z = rest[:, 0].abs(), rest[:, 1], rest[:, 2]
    front = smoothstep(0.2, 0.35, z)
    opening = 0.10 + 0.36 * ((y - 4.5) / 1.4).clamp(0, 1.2)
    shirt = smoothstep(0.012, -0.012, x - opening) * front
    height = _slanted(rest)
    shirt = torch.maximum(shirt, smoothstep(_NECK - 0.04, _NECK - 0.015, height))
    lapel_edge = opening + 0.34 * ((y - 4.75) / 0.8).clamp(0, 1)
    crease = smoothstep(0.03, 0.0, (x - lapel_edge).abs()) * front * 0.55
    under = smoothstep(0.10, 0.0, opening - x) * shirt * 0.45
    colour = outer * (1 - crease)[:, None]
    body = inner * (1 - under)[:, None]
    if outfit.opening < 0.62:
        tie = smoothstep(0.008, -0.008, x - (0.065 + 0.05 * ((5.55 - y) / 0.7).clamp(0, 1)))
        body = torch.lerp(body, rest.new_tensor(outfit.accent).expand_as(body), (tie * front)[:, None])
    return torch.lerp(colour, body, shirt[:, None])


def _shirt(outfit: Outfit, rest: Tensor, colour: Tensor, edge: Tensor) -> Tensor:
    """Return the colour of a shirt with collar edge, placket and buttons."""
    x, y, z = rest[:, 0], rest[:, 1], rest[:, 2]
    height = _slanted(rest)
    front = smoothstep(0.2, 0.35, z)
    points = 0.16 * smoothstep(0.55, 0.12, x.abs()) * front
    line = smoothstep(0.022, 0.0, (height - (_NECK - 0.06 - points)).abs())
    placket = smoothstep(0.012, 0.0, (x.abs() - 0.07).abs()) * front * (height < _NECK - 0.2).float()
    shade = 1 - 0.5 * torch.maximum(line, 0.5 * placket)
    button = ((y * 3.6).frac() - 0.5) / 3.6
    spot = smoothstep(0.026, 0.018, (x**2 + button**2).sqrt()) * front
    colour = colour * shade[:, None]
    return torch.lerp(
        colour, rest.new_tensor(outfit.accent).expand_as(colour) * 0.5 + 0.25, (spot * 0.8)[:, None]
    )
