"""Painted additions to a baked skin texture: uneven colour, spots, lines, stubble, make-up, oil."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from livetalk.synthetic.noise import Noise, smoothstep
from livetalk.synthetic.people.identity import Identity
from livetalk.synthetic.people.world import SkinPaint
from livetalk.synthetic.rendering import appearance
from livetalk.synthetic.rendering.appearance import SkinMap

_FREQUENCIES = (1.4, 4.0, 11.0, 33.0)
"""Noise cells per decimetre of `SkinPaint.scales`."""
_STRENGTHS = (0.55, 0.5, 0.45, 0.45)
"""Change of log albedo by noise of strength 1, from its lowest to its highest value about twice this."""


def paint_skin(texture: Tensor, identity: Identity, paint: SkinPaint, skin_map: SkinMap) -> Tensor:
    """Return a baked skin texture [S, S, CHANNELS] with the paint of an identity's world."""
    noise = Noise(paint.seed, texture.device)
    rest = skin_map.rest
    albedo, gradient, lip, rough, shine, occlusion = torch.split(texture, [3, 3, 1, 1, 1, 1], -1)
    albedo = albedo * _unevenness(paint, rest, noise).exp()
    albedo = _spots(albedo, paint, skin_map, noise)
    lines = _lines(paint, rest, noise)
    albedo = albedo * (1 - 0.45 * lines)[..., None]
    albedo = _stubble(albedo, identity, paint, skin_map, noise)
    albedo = _makeup(albedo, paint, rest, lip[..., 0])
    relief = (noise.fractal(rest * 17, 3) - 0.5) * 0.012 * paint.relief - 0.012 * lines
    gradient = gradient + appearance.bump_gradient(relief, rest, skin_map.filled)
    patches = smoothstep(0.3, 0.7, noise.fractal(rest * 2.5 + 4, 3))[..., None]
    shine = shine * (1 + 2.5 * paint.oil * patches)
    rough = (rough - 0.2 * paint.oil * patches).clamp_min(0.16)
    return torch.cat([albedo.clamp(0.002, 0.95), gradient, lip, rough, shine, occlusion], -1)


def _unevenness(paint: SkinPaint, rest: Tensor, noise: Noise) -> Tensor:
    """Return changes of log albedo [S, S, 3]: brightness at four scales, and reddish or yellowish tints."""
    total = torch.zeros_like(rest)
    for index, (frequency, amount) in enumerate(zip(_FREQUENCIES, _STRENGTHS, strict=True)):
        strength = paint.scales[index] * amount
        if strength == 0:
            continue
        grey = 2 * noise.fractal(rest * frequency + 7.1 * index, 2) - 1
        hue = 2 * noise(rest * frequency * 0.8 + 3.3 * index + 40) - 1
        tint = hue[..., None] * rest.new_tensor([0.15, -0.35, -0.3])
        total = total + strength * (grey[..., None] + tint)
    return total


def _spots(albedo: Tensor, paint: SkinPaint, skin_map: SkinMap, noise: Noise) -> Tensor:
    """Paint blotches, freckles and moles on albedo [S, S, 3]."""
    rest = skin_map.rest
    if paint.blotches > 0:
        where = smoothstep(0.52, 0.62, noise.fractal(rest * 3.2 + 21, 4)) * paint.blotches
        albedo = albedo * (1 - where[..., None] * (1 - rest.new_tensor(paint.blotch)))
    if paint.freckles > 0:
        small = smoothstep(0.66, 0.78, noise(rest * 40 + 13))
        large = smoothstep(0.74, 0.82, noise(rest * 19 + 5))
        spots = torch.maximum(small, large) * smoothstep(0.3, 0.55, noise.fractal(rest * 3 + 2, 2))
        albedo = albedo * (1 - (spots * paint.freckles)[..., None] * rest.new_tensor([0.35, 0.5, 0.6]))
    if paint.moles:
        albedo = albedo * (1 - _moles(paint, skin_map)[..., None] * rest.new_tensor([0.7, 0.8, 0.82]))
    return albedo


def _moles(paint: SkinPaint, skin_map: SkinMap) -> Tensor:
    """Return the cover [S, S] of round moles at random places of the face and neck."""
    rng = np.random.default_rng((paint.seed, 1))
    size = len(skin_map.rest)
    cover = torch.zeros_like(skin_map.lips)
    for across, up, radius in zip(
        rng.uniform(0.2, 0.8, paint.moles),
        rng.uniform(0.15, 0.75, paint.moles),
        np.exp(rng.uniform(np.log(0.012), np.log(0.05), paint.moles)),
        strict=True,
    ):
        centre = skin_map.rest[int(up * size), int(across * size)]
        distance = (skin_map.rest - centre).norm(dim=-1)
        cover = torch.maximum(cover, smoothstep(1.15 * radius, 0.75 * radius, distance))
    return cover


def _lines(paint: SkinPaint, rest: Tensor, noise: Noise) -> Tensor:
    """Return wrinkle-like lines [S, S], 0..1: thin ridges of noise that is stretched sideways."""
    if paint.wrinkles == 0:
        return torch.zeros_like(rest[..., 0])
    x, y, z = rest.unbind(-1)
    across = noise(torch.stack([x * 2.2, y * 9 + 2.5 * x.abs(), z * 2.2], -1))
    slanted = noise(torch.stack([x * 7 + 4 * y, y * 3 - 4 * x.abs(), z * 3], -1) + 9.0)
    ridges = smoothstep(0.05, 0.0, (across - 0.5).abs()) + 0.7 * smoothstep(0.04, 0.0, (slanted - 0.5).abs())
    patches = smoothstep(0.35, 0.6, noise.fractal(rest * 2 + 30, 2))
    return (ridges * patches * paint.wrinkles).clamp(0, 1)


def _stubble(albedo: Tensor, identity: Identity, paint: SkinPaint, skin_map: SkinMap, noise: Noise) -> Tensor:
    """Paint short dark hairs on the beard's area of men, over a bluish ground."""
    if paint.stubble == 0 or not identity.male:
        return albedo
    full = replace(identity, skin=replace(identity.skin, beard=1.0, moustache=1.0))
    area = appearance.beard_mask(full, skin_map.rest, noise) * (1 - smoothstep(0.1, 0.5, skin_map.lips))
    area = area * paint.stubble
    hairs = smoothstep(0.55, 0.75, noise(skin_map.rest * 75))
    albedo = albedo * (1 - area[..., None] * albedo.new_tensor([0.34, 0.28, 0.22]))
    return albedo * (1 - (0.7 * area * hairs)[..., None])


def _makeup(albedo: Tensor, paint: SkinPaint, rest: Tensor, lip: Tensor) -> Tensor:
    """Paint lids, lips and cheeks."""
    if paint.makeup == 0:
        return albedo
    lid = appearance.ellipsoid(rest, (0.31, 7.38, 1.40), (0.20, 0.09, 0.2))
    cheek = appearance.ellipsoid(rest, (0.50, 6.95, 1.15), (0.2, 0.14, 0.3))
    for colour, amount in ((paint.eyelid, lid), (paint.lip, lip), (paint.cheek, 0.5 * cheek)):
        share = (amount * paint.makeup).clamp(0, 1)[..., None]
        albedo = torch.lerp(albedo, rest.new_tensor(colour), share)
    return albedo
