"""Glasses: two rims, a bridge and temples, drawn as dense points like hair."""

import torch
from torch import Tensor
from torch.nn import functional as F

from livetalk.synthetic.people.identity import Outfit
from livetalk.synthetic.rendering.scene import Strands

_RADIUS = {"thin": 0.011, "thick": 0.024}
_FORWARD, _ACROSS = (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)
_WINDOW = (1.1, 1.2, 1.3)
"""Albedo of reflections, above 1 because glass mirrors a light that is brighter than what it lights."""


def make_glasses(outfit: Outfit, eyes: Tensor, seed: int, per_unit: float) -> Strands | None:
    """Return the points of the glasses' frame, or None without glasses.

    Args:
        outfit: kind and colour of the frame.
        eyes: [2, 3], eye centres of the neutral face (left, right).
        seed: of the rims' shape.
        per_unit: samples per decimetre, which determines the density of points.
    """
    if outfit.glasses == "none":
        return None
    curves = _curves(eyes, seed)
    parts = [tube(curve, _RADIUS[outfit.glasses], per_unit) for curve in curves]
    points, normal, tangent = (torch.cat(part) for part in zip(*parts, strict=True))
    count = len(points)
    colour = points.new_tensor(outfit.glasses_colour).expand(count, 3).contiguous()
    ones = torch.ones(count, device=points.device)
    return Strands(points, normal, tangent, colour, ones, ones)


def _curves(eyes: Tensor, seed: int) -> list[Tensor]:
    """Return centre lines [N, 3] of rims, bridge and temples."""
    middle = eyes.mean(0)
    half = (eyes[0, 0] - eyes[1, 0]).abs() / 2
    front = eyes[:, 2].max() + 0.30
    wide, tall = half * 0.80, half * (0.52 + 0.04 * (seed % 5))
    # A superellipse: exponents above 2 give rims between round and rectangular.
    power = 2.0 / (2.2 + 0.5 * (seed % 4))
    turn = torch.linspace(0, 2 * torch.pi, 240, device=eyes.device)
    across = torch.sign(turn.cos()) * turn.cos().abs() ** power * wide
    up = torch.sign(turn.sin()) * turn.sin().abs() ** power * tall - 0.03
    curves = []
    for side in (1.0, -1.0):
        x = middle[0] + side * half * 1.04 + across
        curves.append(_bent(x, middle[1] + up, middle[0], front))
    step = torch.linspace(-1, 1, 60, device=eyes.device)
    gap = half * 1.04 - wide
    arch = middle[1] + 0.015 + 0.03 * (1 - step * step)
    curves.append(_bent(middle[0] + step * gap, arch, middle[0], front))
    line = torch.linspace(0, 1, 200, device=eyes.device)
    for side in (1.0, -1.0):
        outer = half * 1.04 + wide
        x = middle[0] + side * (outer + (0.80 - outer) * line.clamp_max(1))
        start = front - 0.28 * (outer**2)
        z = start + (0.45 - start) * line
        curves.append(torch.stack([x, middle[1] + 0.05 - 0.02 * line, z], 1))
    return curves


def make_reflections(eyes: Tensor, seed: int, share: float, per_unit: float) -> Strands:
    """Return the points of slanted bright strips, the reflection of a window, over both lenses.

    `share` of the lenses' width is covered; the other arguments are those of `make_glasses`.
    """
    points = []
    for rim in _curves(eyes, seed)[:2]:
        low, high = rim.amin(0), rim.amax(0)
        step = 1 / (per_unit * 1.3)
        across = torch.arange(float(low[0]), float(high[0]), step, device=eyes.device)
        up = torch.arange(float(low[1]), float(high[1]), step, device=eyes.device)
        x, y = (grid.reshape(-1) for grid in torch.meshgrid(across, up, indexing="ij"))
        # A third of the points: the eye stays visible through the reflection once samples are averaged.
        counts = torch.arange(len(across), device=eyes.device)[:, None]
        counts = counts + torch.arange(len(up), device=eyes.device)
        sparse = (counts % 3 == 0).reshape(-1)
        middle, half = (low + high) / 2, (high - low) / 2
        u, v = (x - middle[0]) / half[0], (y - middle[1]) / half[1]
        band = u + 0.35 * v + 0.3
        inside = (
            sparse & (u**4 + v**4 < 0.7) & (band.abs() < share) & ((band - 0.5 * share).abs() > 0.12 * share)
        )
        z = (low[2] + high[2]) / 2 + torch.zeros_like(x)
        points.append(torch.stack([x, y, z], 1)[inside])
    joined = torch.cat(points)
    ones = torch.ones(len(joined), device=joined.device)
    forward, across = (joined.new_tensor([axis]).expand_as(joined) for axis in (_FORWARD, _ACROSS))
    return Strands(joined, forward, across, joined.new_tensor([_WINDOW]).expand_as(joined), ones, ones)


def _bent(x: Tensor, y: Tensor, middle: Tensor, front: Tensor) -> Tensor:
    """Return points on the slightly curved front of the glasses."""
    return torch.stack([x, y, front - 0.28 * (x - middle) ** 2], 1)


def tube(curve: Tensor, radius: float, per_unit: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return surface points, normals and tangents of a tube around a curve [N, 3]."""
    length = (curve[1:] - curve[:-1]).norm(dim=1).sum()
    # Denser than the samples, so that no sample between two points stays empty; also around the tube.
    count = int(length.item() * per_unit * 1.3) + 2
    dense = F.interpolate(curve.T[None], size=count, mode="linear", align_corners=True)[0].T
    tangent = F.normalize(torch.gradient(dense, dim=0)[0], dim=1)
    helper = dense.new_tensor([[0.3, 0.2, 0.93]]).expand_as(dense)
    first = F.normalize(torch.linalg.cross(tangent, helper), dim=1)
    second = torch.linalg.cross(tangent, first)
    around = int(2 * torch.pi * radius * per_unit * 1.4) + 6
    turn = torch.arange(around, device=curve.device) * (2 * torch.pi / around)
    normal = first[:, None] * turn.cos()[:, None] + second[:, None] * turn.sin()[:, None]
    points = dense[:, None] + radius * normal
    repeated = tangent[:, None].expand_as(normal)
    return points.reshape(-1, 3), normal.reshape(-1, 3), repeated.reshape(-1, 3)
