"""Caps, hats, head scarves and earrings, drawn as dense points like hair."""

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from livetalk.synthetic.noise import Noise, smoothstep
from livetalk.synthetic.people.pose import head_weight
from livetalk.synthetic.people.world import Earrings, Headwear
from livetalk.synthetic.rendering.appearance import SkinMap
from livetalk.synthetic.rendering.glasses import tube
from livetalk.synthetic.rendering.hair import CENTRE, Skull
from livetalk.synthetic.rendering.prints import printed
from livetalk.synthetic.rendering.scene import Strands

_SLOPE = 0.22
"""Rise of a cap's edge from the back of the head to the forehead, as a sine of the elevation."""
_DENSITY = 1.1
"""Points per sample along each axis."""


def cover(headwear: Headwear, direction: Tensor) -> Tensor:
    """Return a value [...], positive where unit vectors [..., 3] from the skull's centre are covered."""
    x, y, z = direction.unbind(-1)
    if headwear.kind != "scarf":
        return y - headwear.level - _SLOPE * z
    # A scarf leaves an oval around the face free, in radians of azimuth and elevation.
    azimuth, elevation = torch.atan2(x, z), torch.asin(y.clamp(-1, 1))
    return ((azimuth / 0.66) ** 2 + ((elevation + 0.16) / 0.58) ** 2).sqrt() - 1


def put_on(strands: Strands, headwear: Headwear, skull: Skull, noise: Noise, per_unit: float) -> Strands:
    """Return hair without what the headwear covers, and the headwear's points.

    `per_unit` is samples per decimetre, which determines the density of points.
    """
    # A scarf covers long hair below the head, too.
    if headwear.kind == "scarf":
        strands = strands.choose(torch.zeros(0, dtype=torch.long, device=strands.points.device))
    else:
        hidden = cover(headwear, F.normalize(strands.points - skull.centre, dim=-1)) > 0
        strands = strands.choose((~hidden).nonzero().squeeze(1))
    strands = strands.join(_shell(headwear, skull, noise, per_unit))
    if headwear.kind in ("brim", "peak"):
        strands = strands.join(_brim(headwear, skull, per_unit))
    return strands


def paint_covered(texture: Tensor, headwear: Headwear, skin_map: SkinMap) -> Tensor:
    """Return a skin texture [S, S, C] in the headwear's colour where it covers, such as a scarf the neck."""
    # The texture's positions are those of the unmorphed head.
    edge = cover(headwear, F.normalize(skin_map.rest - skin_map.rest.new_tensor(CENTRE), dim=-1))
    share = smoothstep(0.0, 0.05, edge)[..., None]
    cloth = texture.clone()
    cloth[..., :3] = texture.new_tensor(headwear.colour)
    cloth[..., 3:6] = 0
    # Dull, like cloth: no highlights.
    cloth[..., 8] = 0
    return torch.lerp(texture, cloth, share)


def _shell(headwear: Headwear, skull: Skull, noise: Noise, per_unit: float) -> Strands:
    """Return the points of the part that lies on the head."""
    device = skull.centre.device
    rows = int(math.pi * 1.2 * per_unit * _DENSITY)
    rise = (torch.arange(rows, device=device) + 0.5) / rows * math.pi - math.pi / 2
    turn = (torch.arange(2 * rows, device=device) + 0.5) / rows * math.pi - math.pi
    elevation, azimuth = torch.meshgrid(rise, turn, indexing="ij")
    flat = elevation.cos()
    direction = torch.stack([azimuth.sin() * flat, elevation.sin(), azimuth.cos() * flat], -1)
    edge = cover(headwear, direction)
    folds = 0.05 * (noise.fractal(direction * 2.5 + 50, 2) - 0.5)
    radius = skull.radius(direction.view(-1, 3)).view(edge.shape) + folds
    # Rounded towards the edge, where the cloth lies on the skin.
    radius = radius + headwear.clearance * (0.25 + 0.75 * smoothstep(0.0, 0.15, edge))
    points = skull.centre + direction * radius[..., None]
    along = F.normalize(torch.gradient(points, dim=1)[0], dim=-1)
    tangent = F.normalize(torch.gradient(points, dim=0)[0], dim=-1)
    normal = F.normalize(torch.linalg.cross(along, tangent), dim=-1)
    normal = F.normalize(normal + headwear.ribs * (azimuth * 60).sin()[..., None] * along, dim=-1)
    keep = ((edge > 0) & (elevation > -1.0)).view(-1).nonzero().squeeze(1)
    points, normal, tangent = (part.reshape(-1, 3)[keep] for part in (points, normal, tangent))
    ground = points.new_tensor(headwear.colour).expand(len(keep), 3)
    if headwear.print is not None:
        place = azimuth.reshape(-1)[keep], elevation.reshape(-1)[keep]
        ground = printed(headwear.print, ground, *place, noise)
    shade = 0.45 + 0.55 * smoothstep(0.0, 0.08, edge.reshape(-1)[keep])
    return Strands(points, normal, tangent, ground.contiguous(), shade, head_weight(points))


def _brim(headwear: Headwear, skull: Skull, per_unit: float) -> Strands:
    """Return the points of a brim, or of a peak in front."""
    device = skull.centre.device
    reach, width = (1.0, 0.75) if headwear.kind == "peak" else (math.pi, 0.55)
    count = int(2 * reach * 1.8 * per_unit * _DENSITY)
    azimuth = torch.linspace(-reach, reach, count, device=device)
    level = headwear.level + _SLOPE * azimuth.cos()
    elevation = torch.asin(level.clamp(-1, 1))
    direction = torch.stack([azimuth.sin() * elevation.cos(), level, azimuth.cos() * elevation.cos()], -1)
    radius = skull.radius(direction) + 0.2 * headwear.clearance
    start = skull.centre + direction * radius[:, None]
    steps = torch.linspace(0, width, int(width * per_unit * _DENSITY * 1.2), device=device)
    narrow = (1 - (azimuth / reach) ** 2).clamp_min(0).sqrt() if headwear.kind == "peak" else 1.0
    outward = torch.stack([azimuth.sin(), torch.full_like(azimuth, -0.12), azimuth.cos()], -1)
    outward = outward * torch.as_tensor(narrow, device=device).expand(count)[:, None]
    points = (start[:, None] + outward[:, None] * steps[:, None]).view(-1, 3)
    normal = points.new_tensor([[0.0, 1.0, 0.1]]).expand_as(points)
    tangent = F.normalize(outward, dim=-1)[:, None].expand(count, len(steps), 3).reshape(-1, 3)
    ones = torch.ones(len(points), device=device)
    colour = (points.new_tensor(headwear.colour) * 0.8).expand_as(points)
    return Strands(points, normal.contiguous(), tangent, colour.contiguous(), ones, ones)


def make_earrings(earrings: Earrings, lobes: Tensor, per_unit: float) -> Strands:
    """Return the points of two earrings at the ears' lobes [2, 3]."""
    turn = torch.linspace(0, 2 * math.pi, 160, device=lobes.device)
    parts = []
    for lobe, side in zip(lobes, (1.0, -1.0), strict=True):
        if earrings.kind == "stud":
            # A sphere: a short tube as thick as it is long.
            line = torch.linspace(-0.3, 0.3, 8, device=lobes.device) * earrings.radius
            curve = torch.stack([torch.zeros_like(line), line, torch.zeros_like(line)], 1)
            thick = earrings.radius
        else:
            across, up = turn.sin() * earrings.radius, turn.cos() * earrings.radius - earrings.radius
            curve = torch.stack([0.3 * across * side, up, across], 1)
            thick = 0.012
        offset = lobe.new_tensor([0.02 * side, 0.03, 0.03])
        parts.append(tube(curve + lobe + offset, thick, per_unit))
    points, normal, tangent = (torch.cat(part) for part in zip(*parts, strict=True))
    colour = points.new_tensor(earrings.colour).expand_as(points).contiguous()
    ones = torch.ones(len(points), device=points.device)
    rings = Strands(points, normal, tangent, colour, ones, ones)
    return replace(rings, occlusion=0.8 * ones)
