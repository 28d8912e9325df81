"""Analytic shading of eyes, teeth, gums, tongue and the lining of the mouth, in linear light."""

import torch
from torch import Tensor
from torch.nn import functional as F

from livetalk.synthetic.noise import Noise, bump, smoothstep
from livetalk.synthetic.people.identity import Skin
from livetalk.synthetic.people.world import Teeth
from livetalk.synthetic.rendering.shading import LightRig, Surface, ambient, dot, shade_skin

_IRIS_RADIUS = 0.50
_PUPIL = 0.36


def shade_eye(
    surface: Surface, lights: LightRig, skin: Skin, noise: Noise, looks: tuple[Tensor, Tensor]
) -> Tensor:
    """Shade eyeballs: sclera, iris with radial fibres, pupil, wet highlights, shade of the upper lid.

    Returns linear light [N, 3]. `looks` is the eye centre [N, 3] and the direction of gaze [N, 3] of each
    sample; `skin` has the iris colour, `noise` its fibres.
    """
    centre, gaze = looks
    outward = F.normalize(surface.position - centre, dim=-1)
    angle = torch.acos(dot(outward, gaze).clamp(-1, 1))
    radius = angle / _IRIS_RADIUS
    albedo = _eye_albedo(outward, gaze, radius, skin, noise)
    lid = smoothstep(0.40, 0.05, outward[:, 1]) * 0.68 + 0.32
    corner = smoothstep(1.15, 0.75, angle) * 0.4 + 0.6
    light = ambient(lights, outward) * 0.95
    for index in range(3):
        facing = ((outward @ lights.directions[index]) * 0.6 + 0.4).clamp_min(0)
        visible = 0.35 + 0.65 * surface.shadow if index == 0 else surface.occlusion
        light = light + lights.colours[index] * (facing * visible * 0.8)[:, None]
    result = albedo * light * (lid * corner)[:, None]
    # The cornea bulges forward: its normals lean towards the gaze.
    cornea = F.normalize(outward + 0.35 * gaze * smoothstep(1.2, 0.6, radius)[:, None], dim=-1)
    for index, power, strength in ((0, 380, 2.6), (1, 160, 0.7)):
        half = F.normalize(surface.view + lights.directions[index], dim=-1)
        glint = dot(cornea, half).clamp(0, 1) ** power
        result = result + lights.colours[index] * (glint * strength * lid)[:, None]
    result = result + lights.sky * (_catchlight(outward, gaze, lights) * lid * 1.5)[:, None]
    mirrored = 2 * dot(cornea, surface.view)[:, None] * cornea - surface.view
    return result + lights.sky * (0.045 * smoothstep(0.1, 0.8, mirrored[:, 1]) * lid)[:, None]


def _catchlight(outward: Tensor, gaze: Tensor, lights: LightRig) -> Tensor:
    """Return the reflection of a window [N], on the upper part of the iris towards the key light."""
    side = torch.sign(lights.directions[0, 0])
    spot = F.normalize(
        gaze + gaze.new_tensor([0.0, 0.15, 0.0]) + side * gaze.new_tensor([0.16, 0.0, 0.0]), dim=-1
    )
    return smoothstep(0.13, 0.06, torch.acos(dot(outward, spot).clamp(-1, 1)))


def _eye_albedo(outward: Tensor, gaze: Tensor, radius: Tensor, skin: Skin, noise: Noise) -> Tensor:
    """Return the colour of the eyeball [N, 3] by angle from the gaze, in iris radii."""
    side = F.normalize(torch.linalg.cross(gaze, gaze.new_tensor([[0.0, 1.0, 0.0]]).expand_as(gaze)), dim=-1)
    up = torch.linalg.cross(side, gaze)
    around = torch.atan2(dot(outward, up), dot(outward, side))
    fibre = noise(torch.stack([around * 5, radius * 2, torch.full_like(radius, 1.7)], -1)) * 0.55
    fibre = fibre + 0.45 * noise(torch.stack([around * 14, radius * 3, torch.full_like(radius, 7.7)], -1))
    iris = gaze.new_tensor(skin.iris)
    ring = torch.lerp(radius.new_tensor(1.25), radius.new_tensor(0.55), smoothstep(0.45, 1.0, radius))
    colour = iris * ((0.62 + 0.76 * fibre) * ring)[:, None]
    warm = iris * iris.new_tensor([1.5, 1.1, 0.6]) + 0.02
    colour = torch.lerp(colour, warm, (0.3 * bump(radius, 0.46, 0.15))[:, None])
    colour = colour * (1 - 0.75 * smoothstep(0.82, 1.02, radius))[:, None]
    white = gaze.new_tensor([0.66, 0.62, 0.595]) * (1 - 0.06 * noise(outward * 14))[:, None]
    white = torch.lerp(
        white, white * white.new_tensor([1.0, 0.80, 0.76]), (0.7 * smoothstep(1.5, 2.6, radius))[:, None]
    )
    colour = torch.lerp(colour, white, smoothstep(0.92, 1.10, radius)[:, None])
    return torch.lerp(
        torch.full_like(colour, 0.006), colour, smoothstep(_PUPIL - 0.05, _PUPIL + 0.06, radius)[:, None]
    )


def shade_teeth(
    surface: Surface, lights: LightRig, look: tuple[Skin, Teeth | None], rest: Tensor, opening: Tensor
) -> Tensor:
    """Shade teeth and gums, darker towards the back and when the mouth is nearly closed.

    Returns linear light [N, 3]. `look` is the skin and perhaps other teeth than its plain ones, `rest` [N, 3]
    the rest positions, `opening` [N] the mouth opening, 0..1.
    """
    skin, teeth = look
    x, y, z = rest.unbind(-1)
    # The plane between the rows of teeth falls towards the back.
    upper = (y + 0.09 * (1.45 - z) > 6.66).float()
    # Teeth get narrower to the sides: the coordinate along the dental arch is stretched.
    around = torch.atan2(x, z - 0.95)
    across = around * 8.6 * (1 + 0.25 * around.abs())
    gap = ((across + 0.5 * (1 - upper)).frac().abs() - 0.5).abs()
    gap = 0.5 - gap
    arch = torch.cos(across * 2 * torch.pi) * 0.012
    gum = torch.where(upper > 0.5, smoothstep(6.735, 6.765, y - arch), smoothstep(6.545, 6.515, y + arch))
    white = torch.lerp(rest.new_tensor([0.70, 0.62, 0.50]), rest.new_tensor([0.80, 0.755, 0.68]), skin.teeth)
    albedo = white * 1.12 * (1 - 0.30 * smoothstep(0.06, 0.0, gap))[:, None]
    if teeth is not None:
        albedo = _other_teeth(teeth, across, gap, upper)
    albedo = torch.lerp(albedo, rest.new_tensor([0.50, 0.20, 0.19]), gum[:, None])
    depth = smoothstep(1.10, 1.47, z)
    dark = (0.10 + 0.90 * depth) * (0.6 + 0.4 * smoothstep(0.0, 0.25, opening)) * (0.55 + 0.6 * upper)
    inner = _darkened(surface, dark, 0.7)
    rough = torch.full_like(x, 0.28)
    return shade_skin(inner, lights, albedo, rough, dark * 1.2)


def _other_teeth(teeth: Teeth, across: Tensor, gap: Tensor, upper: Tensor) -> Tensor:
    """Return the albedo [N, 3] of teeth by number along the arch, distance to a gap, and row."""
    number = (across + 0.5 * (1 - upper)).floor()
    # Any fixed irregular sequence makes teeth differ.
    luck = torch.sin(number * 12.9 + 40 * upper) * 0.5 + 0.5
    colour = gap.new_tensor(teeth.colour) * (1 - 0.5 * teeth.uneven * luck)[:, None]
    width = 0.06 + 0.10 * teeth.gap * luck
    albedo = colour * (1 - (0.30 + 0.6 * teeth.gap) * smoothstep(width, 0.0, gap))[:, None]
    if teeth.missing is not None:
        lost = upper * (number == teeth.missing)
        albedo = albedo * (1 - 0.93 * lost)[:, None]
    return albedo


def shade_tongue(surface: Surface, lights: LightRig, noise: Noise, rest: Tensor, opening: Tensor) -> Tensor:
    """Shade the tongue, wet and dark, to linear light [N, 3]."""
    tone = 0.85 + 0.3 * noise.fractal(rest * 22, 2)
    crease = 1 - 0.25 * bump(rest[:, 0], 0, 0.03)
    albedo = rest.new_tensor([0.46, 0.185, 0.175]) * (tone * crease)[:, None]
    dark = (0.10 + 0.62 * smoothstep(1.05, 1.42, rest[:, 2])) * (0.4 + 0.6 * smoothstep(0.0, 0.4, opening))
    return shade_skin(_darkened(surface, dark), lights, albedo, torch.full_like(tone, 0.36), dark * 0.8)


def shade_lining(
    surface: Surface, lights: LightRig, rest: Tensor, lip: Tensor, colour: tuple[float, float, float]
) -> Tensor:
    """Shade the inside of lips and cheeks: lip colour at the rim, dark red behind, to linear light [N, 3]."""
    depth = smoothstep(1.46, 1.535, rest[:, 2])
    rim = torch.maximum(depth, lip)
    albedo = torch.lerp(rest.new_tensor([0.30, 0.085, 0.08]), rest.new_tensor(colour) * 0.9, rim[:, None])
    dark = 0.02 + 0.22 * smoothstep(1.2, 1.5, rest[:, 2]) + 0.55 * rim
    return shade_skin(_darkened(surface, dark), lights, albedo, torch.full_like(lip, 0.36), dark)


def _darkened(surface: Surface, dark: Tensor, least: float = 0.0) -> Surface:
    """Return the same samples with less light, but at least a share `least` of the key light."""
    return Surface(
        surface.position,
        surface.normal,
        surface.smooth,
        surface.view,
        surface.shadow.clamp(least, 0.8) * dark,
        dark * 0.85,
    )
