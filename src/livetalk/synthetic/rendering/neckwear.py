"""Scarves around the neck, drawn as dense points like hair."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from livetalk.synthetic.noise import Noise
from livetalk.synthetic.people.world import NeckScarf
from livetalk.synthetic.rendering.prints import printed
from livetalk.synthetic.rendering.scene import Strands

_DENSITY = 1.3
"""Points per sample along each axis, so that no sample between points stays empty."""
_BELOW_PIVOT = (0.0, -0.43, 0.07)
_RADIUS = 0.62
_FOLLOWS = 0.35
"""How much a scarf follows the head rather than the torso."""


def make_scarf(scarf: NeckScarf, pivot: Tensor, noise: Noise, per_unit: float) -> Strands:
    """Return the points of folded cloth around the neck.

    Args:
        scarf: colour, print and thickness.
        pivot: [3], the neck's joint.
        noise: of the folds.
        per_unit: samples per decimetre, which determines the density of points.
    """
    around = _circle(_RADIUS + scarf.thickness, per_unit, pivot)
    section = _circle(1.3 * scarf.thickness, per_unit, pivot)
    turn, roll = (grid.reshape(-1) for grid in torch.meshgrid(around, section, indexing="ij"))
    # Noise of points on a torus has no seam.
    folds = noise.fractal(torch.stack([turn.sin() * 2, turn.cos() * 2, roll.sin() * 1.5 + 3], 1), 3)
    thick = scarf.thickness * (0.55 + 0.9 * folds)
    ring = _RADIUS + thick * roll.cos()
    height = thick * 1.1 * roll.sin() - 0.12 * turn.cos()
    offset = torch.stack([turn.sin() * ring, height, turn.cos() * ring], 1)
    points = pivot + pivot.new_tensor(_BELOW_PIVOT) + offset
    slope = noise.fractal(points * 5, 2) - 0.5
    normal = torch.stack([turn.sin() * roll.cos(), roll.sin(), turn.cos() * roll.cos()], 1)
    normal = F.normalize(normal + slope[:, None] * normal.new_tensor([0.5, 1.2, 0.5]), dim=1)
    tangent = torch.stack([turn.cos(), torch.zeros_like(turn), -turn.sin()], 1)
    colour = points.new_tensor(scarf.colour).expand_as(points)
    if scarf.print is not None:
        colour = printed(scarf.print, colour, turn * _RADIUS, roll * scarf.thickness, noise)
    shade = (0.5 + 0.9 * folds)[:, None]
    ones = torch.ones_like(turn)
    return Strands(points, normal, tangent, colour * shade, ones, _FOLLOWS * ones)


def _circle(radius: float, per_unit: float, like: Tensor) -> Tensor:
    """Return angles whose points on a circle of this radius are dense enough."""
    count = int(2 * math.pi * radius * per_unit * _DENSITY) + 8
    return torch.arange(count, device=like.device) * (2 * math.pi / count)
