"""Lighting of visible samples: skin, hair and cloth under key, fill, rim and sky light, and tone mapping."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from livetalk.synthetic.people.identity import Light


@dataclass(frozen=True)
class LightRig:
    """Lights as tensors: `directions`, `colours` [3, 3] of key, fill, rim; `sky`, `ground` [3]."""

    directions: Tensor
    colours: Tensor
    sky: Tensor
    ground: Tensor
    softness: float


@dataclass(frozen=True)
class Surface:
    """Visible samples of one material.

    Attributes:
        position, normal, smooth: [N, 3], world position, shading normal, normal without relief.
    """

    position: Tensor
    normal: Tensor
    smooth: Tensor
    view: Tensor  # [N, 3], unit vectors towards the camera
    shadow: Tensor  # [N], visibility of the key light, 1 is lit
    occlusion: Tensor  # [N], visibility of the sky, 1 is open


def make_lights(light: Light, device: torch.device) -> LightRig:
    """Move an identity's lights to a device."""
    directions = (light.key_direction, light.fill_direction, light.rim_direction)
    return LightRig(
        directions=torch.tensor(directions, device=device),
        colours=torch.tensor((light.key, light.fill, light.rim), device=device),
        sky=torch.tensor(light.sky, device=device),
        ground=torch.tensor(light.ground, device=device),
        softness=light.softness,
    )


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the dot product over the last axis."""
    return (a * b).sum(-1)


def ambient(lights: LightRig, normal: Tensor) -> Tensor:
    """Return the light [N, 3] of sky and ground on a surface."""
    return torch.lerp(lights.ground, lights.sky, normal[:, 1:2] * 0.5 + 0.5)


def shade_skin(
    surface: Surface, lights: LightRig, albedo: Tensor, roughness: Tensor, shine: Tensor
) -> Tensor:
    """Shade skin: wrapped diffuse light with red bleeding across the terminator, and two specular lobes.

    Returns linear light [N, 3]. `albedo` is [N, 3], linear; `roughness` [N], 0..1; `shine` [N] is the
    strength of the highlights.
    """
    wrap = albedo.new_tensor([0.42, 0.23, 0.17])
    bleed = albedo.new_tensor([0.75, 0.4, 0.25])
    soft = surface.shadow.clamp_min(1e-3)[:, None] ** albedo.new_tensor([0.62, 0.9, 1.0])
    facing = dot(surface.normal, surface.view).clamp_min(0.05)
    total = torch.zeros_like(albedo)
    for index in range(3):
        towards = lights.directions[index]
        sharp, smooth = surface.normal @ towards, surface.smooth @ towards
        lit = torch.lerp(sharp[:, None], smooth[:, None], bleed)
        diffuse = ((lit + wrap) / (1 + wrap)).clamp(0, 1)
        diffuse = diffuse * (0.35 * diffuse + 0.65)
        visible = soft if index == 0 else surface.occlusion[:, None]
        gloss = _gloss(surface, towards, sharp.clamp_min(0), facing, roughness)
        gloss = gloss * shine * (surface.shadow if index == 0 else surface.occlusion)
        total = total + lights.colours[index] * (albedo * diffuse * visible + gloss[:, None])
    sky = ambient(lights, surface.smooth)
    occlusion = surface.occlusion.clamp_min(1e-3)[:, None] ** albedo.new_tensor([0.75, 1.1, 1.2])
    grazing = (1 - facing).clamp(0, 1) ** 4
    return total + albedo * sky * occlusion + sky * (0.07 * grazing * shine * surface.occlusion)[:, None]


def _gloss(surface: Surface, towards: Tensor, lit: Tensor, facing: Tensor, roughness: Tensor) -> Tensor:
    """Return two GGX lobes with Fresnel, [N]."""
    half = F.normalize(surface.view + towards, dim=-1)
    aligned = dot(surface.normal, half).clamp(0, 1)
    fresnel = 0.028 + 0.972 * (1 - dot(half, surface.view)).clamp(0, 1) ** 5
    broad = roughness * roughness
    narrow = broad * 0.5
    lobes = 0.82 * _ggx(aligned, broad) + 0.18 * _ggx(aligned, narrow)
    return lobes * fresnel * lit / (4 * torch.maximum(lit, facing) + 0.2)


def _ggx(aligned: Tensor, alpha: Tensor) -> Tensor:
    """Return the GGX normal distribution."""
    square = alpha * alpha
    bottom = aligned * aligned * (square - 1) + 1
    return square / (torch.pi * bottom * bottom).clamp_min(1e-5)


def shade_cloth(surface: Surface, lights: LightRig, albedo: Tensor) -> Tensor:
    """Shade fabric to linear light [N, 3]: diffuse with a soft sheen at grazing angles."""
    total = albedo * ambient(lights, surface.smooth) * surface.occlusion[:, None]
    sheen = (1 - dot(surface.normal, surface.view).clamp(0, 1)) ** 3
    for index in range(3):
        lit = ((surface.normal @ lights.directions[index] + 0.12) / 1.12).clamp_min(0)
        visible = surface.shadow if index == 0 else surface.occlusion
        total = (
            total + lights.colours[index] * (albedo * (1 + 0.5 * sheen[:, None])) * (lit * visible)[:, None]
        )
    return total


def shade_hair(surface: Surface, lights: LightRig, albedo: Tensor, tangent: Tensor, lustre: float) -> Tensor:
    """Shade hair to linear light [N, 3]: Kajiya-Kay diffuse with two shifted highlights."""
    total = albedo * ambient(lights, surface.normal) * surface.occlusion[:, None] * 1.05
    for index in range(3):
        towards = lights.directions[index]
        along = tangent @ towards
        around = (1 - along * along).clamp_min(0).sqrt()
        wrapped = ((surface.normal @ towards) * 0.62 + 0.38).clamp(0, 1)
        half = F.normalize(surface.view + towards, dim=-1)
        first = _strand_lobe(tangent - 0.12 * surface.normal, half, 34)
        second = _strand_lobe(tangent + 0.16 * surface.normal, half, 10)
        visible = wrapped * (surface.shadow if index == 0 else surface.occlusion)
        shine = lustre * (0.04 * first[:, None] + albedo * 0.7 * second[:, None])
        total = total + lights.colours[index] * (
            (albedo * (0.85 * around)[:, None] + shine * surface.occlusion[:, None]) * visible[:, None]
        )
    return total


def _strand_lobe(tangent: Tensor, half: Tensor, power: int) -> Tensor:
    """Return the highlight of a strand, [N]."""
    along = dot(F.normalize(tangent, dim=-1), half)
    return (1 - along * along).clamp_min(0) ** (power / 2)


def tone_map(linear: Tensor) -> Tensor:
    """Map linear light [...] to display values 0..1 with a filmic curve."""
    x = linear.clamp_min(0) * 0.62
    film = (x * (2.51 * x + 0.03)) / (x * (2.43 * x + 0.59) + 0.14)
    return film.clamp(0, 1) ** (1 / 2.2)
