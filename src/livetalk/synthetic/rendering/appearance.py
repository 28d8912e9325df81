"""Skin of one identity, baked once into textures that are indexed by rest position."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from livetalk.synthetic.noise import Noise, bump, smoothstep
from livetalk.synthetic.people.head import SKIN, HeadAsset
from livetalk.synthetic.people.identity import Identity
from livetalk.synthetic.rendering.rasterize import (
    EMPTY,
    Triangles,
    draw_triangles,
    edge_planes,
    new_buffer,
    unpack_ids,
)

_BOTTOM, _TOP = 4.9, 8.55
_AXIS_Z = 0.35
_FRONT = 1.45

CHANNELS = 10
"""Channels of the skin texture: albedo 3, bump gradient 3, lip, roughness, specular, occlusion."""


def skin_coordinates(rest: Tensor) -> Tensor:
    """Return texture coordinates [..., 2], 0..1, of rest positions [..., 3]; the front is denser."""
    turn = torch.atan2(rest[..., 0], rest[..., 2] - _AXIS_Z) / math.pi
    across = 0.5 + 0.5 * (_FRONT * turn + (1 - _FRONT) * turn**3)
    up = (_TOP - rest[..., 1]) / (_TOP - _BOTTOM)
    return torch.stack([across, up], -1)


@dataclass(frozen=True)
class SkinMap:
    """Rest positions and regions of the skin texture's texels, the same for every identity.

    Attributes:
        lips, eyelids, ears: [S, S], painted regions.
    """

    rest: Tensor  # [S, S, 3], rest position of each texel
    lips: Tensor
    eyelids: Tensor
    ears: Tensor
    filled: Tensor  # [S, S], bool, whether the mesh covers the texel


def build_skin_map(head: HeadAsset, size: int, device: torch.device) -> SkinMap:
    """Rasterise the mesh at rest into the texture."""
    base = torch.from_numpy(head.base).to(device)
    corners = torch.from_numpy(head.triangles[head.material == SKIN]).to(device)
    coordinates = skin_coordinates(base)
    # Triangles at the back wrap around the texture's seam; hole filling covers them.
    seam = (coordinates[corners][..., 0].amax(1) - coordinates[corners][..., 0].amin(1)) > 0.3
    corners = corners[~seam]
    # Outer surfaces win where the mesh folds, as at ears and lips.
    distance = 10 - ((base[:, 0] ** 2) + (base[:, 2] - _AXIS_Z) ** 2).sqrt()
    screen = torch.cat([coordinates * size, distance[:, None]], 1)[None]
    buffer = new_buffer(1, size, size, device)
    draw_triangles(buffer, screen, Triangles(corners, two_sided=True), (size, size))
    covered = (buffer != EMPTY).nonzero().squeeze(1)
    face = unpack_ids(buffer[covered])
    planes = edge_planes(screen[0, corners[face], :2])
    x, y = (covered % size).float() + 0.5, (covered // size).float() + 0.5
    weights = planes[..., 0] * x[:, None] + planes[..., 1] * y[:, None] + planes[..., 2]
    masks = torch.stack([torch.from_numpy(m).to(device) for m in (head.lips, head.eyelids, head.ears)], 1)
    values = torch.cat([base, masks], 1)
    texels = torch.zeros(size * size, 6, device=device)
    texels[covered] = (weights[..., None] * values[corners[face]]).sum(1)
    filled = buffer != EMPTY
    texels = _fill(texels.view(size, size, 6), filled.view(size, size))
    return SkinMap(texels[..., :3], texels[..., 3], texels[..., 4], texels[..., 5], filled.view(size, size))


def _fill(texels: Tensor, filled: Tensor) -> Tensor:
    """Fill holes [S, S, C] with averages of filled texels, from a pyramid of coarser textures."""
    colour = (texels * filled[..., None]).permute(2, 0, 1)[None]
    weight = filled[None, None].float()
    levels = [(colour, weight)]
    while min(colour.shape[-2:]) > 1:
        colour = torch.nn.functional.avg_pool2d(colour, 2)
        weight = torch.nn.functional.avg_pool2d(weight, 2)
        levels.append((colour, weight))
    result = levels[-1][0] / levels[-1][1].clamp_min(1e-6)
    for colour, weight in reversed(levels[:-1]):
        result = torch.nn.functional.interpolate(
            result, size=colour.shape[-2:], mode="bilinear", align_corners=False
        )
        own = colour / weight.clamp_min(1e-6)
        result = torch.where(weight > 0, own, result)
    return result[0].permute(1, 2, 0)


def sample(texture: Tensor, coordinates: Tensor) -> Tensor:
    """Sample a texture [S, S, C] bilinearly at coordinates [N, 2], 0..1, to [N, C]."""
    height, width, channels = texture.shape
    x = (coordinates[:, 0] * width - 0.5).clamp(0, width - 1.001)
    y = (coordinates[:, 1] * height - 0.5).clamp(0, height - 1.001)
    column, row = x.floor(), y.floor()
    fx, fy = (x - column)[:, None], (y - row)[:, None]
    index = row.long() * width + column.long()
    flat = texture.reshape(-1, channels)
    above = torch.lerp(flat[index], flat[index + 1], fx)
    below = torch.lerp(flat[index + width], flat[index + width + 1], fx)
    return torch.lerp(above, below, fy)


def _tint(albedo: Tensor, factor: tuple[float, float, float], amount: Tensor) -> Tensor:
    """Multiply albedo [..., 3] by a factor, by an amount [...] in 0..1."""
    return albedo * (1 - amount[..., None] * (1 - torch.tensor(factor, device=albedo.device)))


def _mix(albedo: Tensor, colour: Tensor, amount: Tensor) -> Tensor:
    """Blend albedo [..., 3] with a colour by an amount [...]."""
    return albedo + (colour - albedo) * amount.clamp(0, 1)[..., None]


def ellipsoid(rest: Tensor, centre: tuple[float, float, float], radii: tuple[float, float, float]) -> Tensor:
    """Return a Gaussian blob around a centre, mirrored in x."""
    mirrored = torch.stack([rest[..., 0].abs(), rest[..., 1], rest[..., 2]], -1)
    offset = (mirrored - torch.tensor(centre, device=rest.device)) / torch.tensor(radii, device=rest.device)
    return torch.exp(-(offset**2).sum(-1))


def bake_skin(identity: Identity, skin_map: SkinMap, scalp: Tensor) -> Tensor:
    """Bake the skin texture [S, S, CHANNELS]; `scalp` [S, S], 0..1, is the density of hair."""
    noise = Noise(identity.seed, skin_map.rest.device)
    rest = skin_map.rest
    albedo = _base_tone(identity, skin_map, noise)
    albedo = _paint_regions(albedo, identity, skin_map)
    albedo = _paint_beard(albedo, identity, skin_map, noise)
    lip = smoothstep(0.25, 0.8, skin_map.lips)
    grain = noise(torch.stack([rest[..., 0] * 55, rest[..., 1] * 9, rest[..., 2] * 10], -1))
    lip_colour = torch.tensor(identity.skin.lip, device=rest.device)
    albedo = _mix(albedo, lip_colour * (0.88 + 0.24 * grain)[..., None], lip * 0.88)
    albedo = _paint_brows(albedo, identity, rest, noise)
    hair = torch.tensor(identity.hair.colour, device=rest.device)
    albedo = _mix(albedo, hair * 0.5 + albedo * 0.06, scalp)
    gradient = bump_gradient(_height(identity, skin_map, noise, lip), rest, skin_map.filled)
    oil = smoothstep(0.3, 0.7, noise.fractal(rest * 4, 2))
    roughness = 0.48 - 0.06 * (oil - 0.5) - 0.05 * identity.skin.oil - 0.16 * lip + 0.2 * scalp
    shine = (0.8 + 0.5 * lip + 0.25 * _shiny(rest) * identity.skin.oil) * (1 - 0.7 * scalp)
    extra = torch.stack([lip, roughness, shine, _occlusion(rest)], -1)
    return torch.cat([albedo.clamp(0.002, 0.95), gradient, extra], -1)


def _shiny(rest: Tensor) -> Tensor:
    """Return the oily zone of forehead and nose."""
    nose = ellipsoid(rest, (0.0, 7.0, 1.65), (0.12, 0.3, 0.2))
    forehead = ellipsoid(rest, (0.0, 7.75, 1.45), (0.4, 0.25, 0.4))
    return nose + 0.7 * forehead


def _occlusion(rest: Tensor) -> Tensor:
    """Return ambient occlusion of the neutral face: eye sockets, below nose and chin, behind the jaw."""
    x, y, z = rest[..., 0].abs(), rest[..., 1], rest[..., 2]
    result = 1 - 0.30 * torch.exp(-(((x - 0.13) / 0.07) ** 2 + ((y - 7.28) / 0.1) ** 2)) * smoothstep(
        1.0, 1.2, z
    )
    result = result * (1 - 0.30 * ellipsoid(rest, (0.0, 6.83, 1.55), (0.16, 0.035, 0.15)))
    under = smoothstep(6.42, 6.15, y + 0.10 * (1.2 - z)) * smoothstep(5.7, 6.0, y) * smoothstep(1.45, 1.0, z)
    return result * (1 - 0.45 * under)


def _base_tone(identity: Identity, skin_map: SkinMap, noise: Noise) -> Tensor:
    """Return skin tone with mottling, blood in cheeks, nose and ears, freckles and moles."""
    skin, rest = identity.skin, skin_map.rest
    coarse = noise.fractal(rest * 2.2 + 3.1, 3) - 0.5
    fine = noise.fractal(rest * 14, 2) - 0.5
    tone = torch.tensor(skin.tone, device=rest.device)
    albedo = tone * (1 + 0.16 * coarse + 0.10 * fine)[..., None]
    blood = (
        0.55 * ellipsoid(rest, (0.42, 6.92, 1.28), (0.26, 0.20, 0.35))
        + 0.6 * ellipsoid(rest, (0.0, 6.98, 1.72), (0.16, 0.14, 0.2))
        + 0.5 * skin_map.ears
        + 0.25 * ellipsoid(rest, (0.0, 6.35, 1.5), (0.2, 0.12, 0.2))
    )
    albedo = _tint(albedo, (1.05, 0.80, 0.78), (blood * skin.redness).clamp(0, 1))
    if skin.freckles > 0.05:
        spots = smoothstep(0.72, 0.84, noise(rest * 44 + 9)) * smoothstep(
            0.35, 0.6, noise.fractal(rest * 4, 2)
        )
        albedo = _tint(albedo, (0.86, 0.76, 0.70), spots * skin.freckles)
    moles = smoothstep(0.955, 0.975, noise(rest * 9 + 17))
    return _tint(albedo, (0.55, 0.45, 0.42), moles * 0.7)


def _paint_regions(albedo: Tensor, identity: Identity, skin_map: SkinMap) -> Tensor:
    """Add shadows under the eyes, lid colour and make-up."""
    skin, rest = identity.skin, skin_map.rest
    under = ellipsoid(rest, (0.29, 7.13, 1.36), (0.20, 0.075, 0.2))
    albedo = _tint(albedo, (0.84, 0.77, 0.80), under * (0.3 + 0.5 * skin.age))
    lid = ellipsoid(rest, (0.31, 7.36, 1.40), (0.20, 0.07, 0.2))
    albedo = _tint(albedo, (0.88, 0.80, 0.79), lid * 0.6)
    albedo = _tint(albedo, (0.62, 0.50, 0.52), lid * 0.6 * skin.makeup)
    blush = ellipsoid(rest, (0.52, 6.97, 1.15), (0.18, 0.12, 0.3))
    return _tint(albedo, (1.02, 0.78, 0.78), blush * 0.5 * skin.makeup)


def _paint_beard(albedo: Tensor, identity: Identity, skin_map: SkinMap, noise: Noise) -> Tensor:
    """Add stubble or a beard to jaw, chin and upper lip."""
    skin, rest = identity.skin, skin_map.rest
    if skin.beard + skin.moustache < 0.05:
        return albedo
    mask = beard_mask(identity, rest, noise) * (1 - smoothstep(0.1, 0.5, skin_map.lips))
    strands = noise(torch.stack([rest[..., 0] * 100, rest[..., 1] * 36, rest[..., 2] * 100], -1))
    cover = mask * (0.72 + 0.28 * smoothstep(0.2, 0.8, strands))
    colour = torch.tensor(skin.brow, device=rest.device) * 0.8 + albedo * (0.10 + 0.25 * (1 - skin.beard))
    return _mix(albedo, colour, cover * min(0.93, 0.25 + 0.75 * max(skin.beard, skin.moustache)))


def beard_mask(identity: Identity, rest: Tensor, noise: Noise) -> Tensor:
    """Return the density of the beard, 0..1."""
    x, y, z = rest[..., 0].abs(), rest[..., 1], rest[..., 2]
    edge = 0.05 * (noise.fractal(rest * 6, 2) - 0.5)
    line = 6.62 + 0.55 * smoothstep(0.35, 0.75, x) + edge
    jaw = smoothstep(line + 0.06, line - 0.12, y) * smoothstep(5.98, 6.2, y + edge)
    jaw = jaw * smoothstep(0.35, 0.62, z + edge)
    lip = ellipsoid(rest, (0.0, 6.775, 1.58), (0.30, 0.065, 0.22)) * 1.6
    return (jaw * identity.skin.beard + lip.clamp(0, 1) * identity.skin.moustache).clamp(0, 1)


def _paint_brows(albedo: Tensor, identity: Identity, rest: Tensor, noise: Noise) -> Tensor:
    """Add eyebrows of fine slanted strands with soft ends."""
    skin = identity.skin
    x, y = rest[..., 0].abs(), rest[..., 1]
    along = (x - 0.115) / 0.42
    centre = 7.462 + skin.brow_arch * 0.05 * torch.sin(along.clamp(0, 1) * 2.6) - 0.05 * along * along
    half = 0.050 * skin.brow_thickness * (1 - 0.5 * along.clamp(0, 1)) * smoothstep(-0.25, 0.2, along)
    across = (y - centre) / half.clamp_min(0.004)
    mask = smoothstep(1.3, 0.35, across.abs()) * smoothstep(-0.1, 0.12, along) * smoothstep(1.12, 0.8, along)
    mask = mask * smoothstep(0.8, 0.9, rest[..., 2])
    slant = torch.stack([x * 62 - y * 70, y * 20 + x * 6, torch.sign(rest[..., 0]) * 7], -1)
    strands = 0.6 * noise(slant) + 0.4 * noise(slant * torch.tensor([1.9, 1.4, 1.0], device=rest.device))
    cover = mask * (0.72 + 0.38 * smoothstep(0.3, 0.65, strands)) * skin.brow_strength
    colour = torch.tensor(skin.brow, device=rest.device)
    return _mix(albedo, colour * 0.9 + albedo * 0.06, cover)


def _height(identity: Identity, skin_map: SkinMap, noise: Noise, lip: Tensor) -> Tensor:
    """Return fine relief [S, S] in decimetres: pores, lip creases, wrinkles."""
    rest, age = skin_map.rest, identity.skin.age
    pores = (noise.fractal(rest * 38, 2) - 0.5) * 0.0018 * (1 - 0.7 * lip)
    creases = (
        (noise(torch.stack([rest[..., 0] * 48, rest[..., 1] * 5, rest[..., 2] * 5], -1)) - 0.5) * 0.004 * lip
    )
    x, y, z = rest[..., 0].abs(), rest[..., 1], rest[..., 2]
    wave = noise(torch.stack([rest[..., 0] * 2.5, y * 14, z * 2.5], -1)) - 0.5
    forehead = wave * 0.014 * smoothstep(7.52, 7.68, y) * smoothstep(8.15, 7.95, y) * smoothstep(0.9, 1.2, z)
    crow = noise(torch.stack([x * 4, y * 26 + x * 9, z * 4], -1)) - 0.5
    corners = crow * 0.010 * torch.exp(-(((x - 0.60) / 0.10) ** 2 + ((y - 7.27) / 0.14) ** 2))
    line = 0.24 + 0.42 * (6.98 - y)
    fold = (
        -0.010
        * bump(x - line, 0, 0.06)
        * smoothstep(6.55, 6.7, y)
        * smoothstep(6.96, 6.84, y)
        * smoothstep(1.2, 1.3, z)
    )
    return pores + creases + (forehead + corners + 0.8 * fold) * (0.15 + 1.2 * age)


def bump_gradient(height: Tensor, rest: Tensor, filled: Tensor) -> Tensor:
    """Return the surface gradient [S, S, 3] of the relief in rest space (dimensionless slope)."""
    right = rest.roll(-1, 1) - rest.roll(1, 1)
    down = rest.roll(-1, 0) - rest.roll(1, 0)
    across = (height.roll(-1, 1) - height.roll(1, 1))[..., None]
    along = (height.roll(-1, 0) - height.roll(1, 0))[..., None]
    right_square = (right**2).sum(-1, keepdim=True).clamp_min(1e-6)
    down_square = (down**2).sum(-1, keepdim=True).clamp_min(1e-6)
    gradient = across * right / right_square + along * down / down_square
    limit = gradient.norm(dim=-1, keepdim=True).clamp_min(0.5) / 0.5
    result: Tensor = gradient / limit * filled[..., None]
    return result
