"""Patterns of cloth and wallpaper as functions of two coordinates."""

import math

import torch
from torch import Tensor

from livetalk.synthetic.noise import Noise, smoothstep
from livetalk.synthetic.people.world import Print

_EDGE = 0.06
"""Width of soft edges as a share of the repeat, which keeps thin lines from flickering."""


def printed(pattern: Print, ground: Tensor, across: Tensor, up: Tensor, noise: Noise) -> Tensor:
    """Return colours [N, 3]: the pattern over a ground [N, 3] at coordinates [N], in the period's unit."""
    cosine, sine = math.cos(pattern.angle), math.sin(pattern.angle)
    u = (cosine * across + sine * up) / pattern.period
    v = (cosine * up - sine * across) / pattern.period
    first, second = _KINDS[pattern.kind](u, v, noise)
    colour = torch.lerp(ground, ground.new_tensor(pattern.first), first[:, None])
    return torch.lerp(colour, ground.new_tensor(pattern.second), second[:, None])


def _band(phase: Tensor, width: float) -> Tensor:
    """Return 1 in bands of this share of a period of 1, 0 between them, with soft edges."""
    distance = (phase - phase.floor() - 0.5).abs()
    return smoothstep(width / 2 + _EDGE / 2, width / 2 - _EDGE / 2, distance)


def _stripes(u: Tensor, v: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    return _band(v, 0.45), _band(v + 0.5, 0.12)


def _checks(u: Tensor, v: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    across, up = _band(u, 0.5), _band(v, 0.5)
    return (across - up).abs(), across * up * 0.5


def _tartan(u: Tensor, v: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    broad = 0.5 * _band(u, 0.4) + 0.5 * _band(v, 0.4)
    thin = torch.maximum(_band(u + 0.5, 0.08), _band(v + 0.5, 0.08))
    return broad, 0.8 * thin


def _dots(u: Tensor, v: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    row = v.floor()
    shifted = u + 0.5 * torch.remainder(row, 2)
    distance = ((shifted - shifted.floor() - 0.5) ** 2 + (v - row - 0.5) ** 2).sqrt()
    return smoothstep(0.33, 0.27, distance), smoothstep(0.16, 0.11, distance)


def _marks(u: Tensor, v: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Return rows of letter-like marks."""
    row = (v * 2).floor()
    place = torch.stack([u * 9, v * 11, row * 3.7], -1)
    word = noise(torch.stack([u * 2.2, row * 5.3, torch.zeros_like(u)], -1))
    ink = smoothstep(0.50, 0.56, noise(place)) * smoothstep(0.42, 0.47, word)
    return ink * _band(v * 2, 0.6), torch.zeros_like(u)


def _flowers(u: Tensor, v: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    point = torch.stack([u * 2, v * 2, torch.zeros_like(u)], -1)
    first = smoothstep(0.55, 0.6, noise.fractal(point, 3))
    second = smoothstep(0.58, 0.63, noise.fractal(point + 11.3, 3))
    return first, second


def _zigzag(u: Tensor, v: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    fold = (u - u.floor() - 0.5).abs()
    return _band(v + fold, 0.4), _band(v + fold + 0.5, 0.15)


_KINDS = {
    "stripes": _stripes,
    "checks": _checks,
    "tartan": _tartan,
    "dots": _dots,
    "marks": _marks,
    "flowers": _flowers,
    "zigzag": _zigzag,
}
