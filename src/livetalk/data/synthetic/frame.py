"""One batch of frames: project, rasterise, shade what is visible, blend over the background, filter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from livetalk.data.synthetic import appearance, clothes, mouth, pose, shading
from livetalk.data.synthetic.head import CLOTH, EYE, LASH, ORAL, SKIN, TEETH, TONGUE, HeadAsset
from livetalk.data.synthetic.noise import smoothstep
from livetalk.data.synthetic.rasterize import (
    EMPTY, Triangles, draw_points, draw_triangles, edge_planes, new_buffer, unpack_ids,
)  # fmt: skip
from livetalk.data.synthetic.shadow import ShadowMap

if TYPE_CHECKING:
    from livetalk.data.synthetic.renderer import Subject

_HAIR_ID = 1 << 20


@dataclass(frozen=True)
class Mesh:
    """The head's triangles on a device, cloth last.

    Attributes:
        base: [V, 3], rest positions of the unmorphed head.
        corners: [T, 3], all triangles; `material` [T].
        solid, lashes, cloth: triangles by how they are drawn.
        lips: [V], painted lips.
    """

    base: Tensor
    corners: Tensor
    material: Tensor
    solid: Tensor
    lashes: Tensor
    cloth: Tensor
    lips: Tensor

    @staticmethod
    def of(head: HeadAsset, device: torch.device) -> Mesh:
        """Moves the mesh to a device, triangles ordered solid, lashes, cloth."""
        groups = [np.flatnonzero(~np.isin(head.material, (LASH, CLOTH)))]
        groups += [np.flatnonzero(head.material == kind) for kind in (LASH, CLOTH)]
        order = np.concatenate(groups)
        corners = torch.from_numpy(head.triangles[order]).to(device)
        solid, lashes, cloth = corners.split([len(g) for g in groups])
        return Mesh(
            base=torch.from_numpy(head.base).to(device),
            corners=corners,
            material=torch.from_numpy(head.material[order]).to(device),
            solid=solid,
            lashes=lashes,
            cloth=cloth,
            lips=torch.from_numpy(head.lips).to(device),
        )


@dataclass(frozen=True)
class FrameState:
    """Geometry of a batch of frames: vertices [F, V, 3], eye centres [F, 2, 3], pose, mouth opening [F]."""

    vertices: Tensor
    eyes: Tensor
    pose: pose.Pose
    opening: Tensor


@dataclass(frozen=True)
class _Samples:
    """Visible samples of the mesh: frame [N], material [N], interpolated rest [N, 3] and lip [N]; the surface."""

    frame: Tensor
    material: Tensor
    rest: Tensor
    lip: Tensor
    surface: shading.Surface

    def choose(self, keep: Tensor) -> _Samples:
        """The samples at these indices."""
        s = self.surface
        parts = (s.position, s.normal, s.smooth, s.view, s.shadow, s.occlusion)
        surface = shading.Surface(*(part[keep] for part in parts))
        return _Samples(self.frame[keep], self.material[keep], self.rest[keep], self.lip[keep], surface)


def render_frames(subject: Subject, mesh: Mesh, state: FrameState, size: int, supersample: int) -> Tensor:
    """Renders a batch of frames, uint8 [F, size, size, 3]."""
    frames = len(state.vertices)
    fine = size * supersample
    normals = pose.vertex_normals(state.vertices, mesh.corners)
    hair_points = state.pose.move(subject.strands.points[None], subject.strands.weight)
    screen = subject.camera.project(state.vertices, fine)
    buffer = new_buffer(frames, fine, fine, screen.device)
    _draw(buffer, screen, subject, mesh, fine)
    hair_screen = subject.camera.project(hair_points, fine)
    draw_points(buffer, hair_screen, _HAIR_ID, (fine, fine))
    shadow = ShadowMap.draw(subject, mesh, state.vertices, hair_points)
    covered = (buffer != EMPTY).nonzero().squeeze(1)
    ids = unpack_ids(buffer[covered])
    is_hair = ids >= _HAIR_ID
    colour = torch.zeros(frames * fine * fine, 3, device=screen.device)
    on_mesh = covered[~is_hair]
    samples = _interpolate(on_mesh, ids[~is_hair], (state, normals, screen), (subject, mesh, shadow), fine)
    colour[on_mesh] = _shade_mesh(samples, subject, state)
    on_hair = covered[is_hair]
    colour[on_hair] = _shade_hair(on_hair // (fine * fine), ids[is_hair] - _HAIR_ID, subject, state, shadow)
    alpha = (buffer != EMPTY).float()
    return _resolve(colour, alpha, subject.background, (frames, size, supersample))


def _draw(buffer: Tensor, screen: Tensor, subject: Subject, mesh: Mesh, fine: int) -> None:
    """Draws the mesh into the buffer."""
    first_cloth = len(mesh.solid) + len(mesh.lashes)
    area = (fine, fine)
    draw_triangles(buffer, screen, Triangles(mesh.solid), area)
    draw_triangles(buffer, screen, Triangles(mesh.lashes, len(mesh.solid), two_sided=True), area)
    draw_triangles(buffer, screen, Triangles(mesh.cloth, first_cloth, subject.cut, two_sided=True), area)


def _interpolate(
    covered: Tensor,
    face: Tensor,
    geometry: tuple[FrameState, Tensor, Tensor],
    scene: tuple[Subject, Mesh, ShadowMap],
    fine: int,
) -> _Samples:
    """Interpolates the mesh at the covered samples."""
    state, normals, screen = geometry
    subject, mesh, shadow = scene
    frame = covered // (fine * fine)
    pixel = covered % (fine * fine)
    corners = mesh.corners[face]
    count = state.vertices.shape[1]
    rows = frame[:, None] * count + corners
    points = screen.reshape(-1, 3)[rows]
    planes = edge_planes(points[..., :2])
    x, y = (pixel % fine).float() + 0.5, (pixel // fine).float() + 0.5
    weights = planes[..., 0] * x[:, None] + planes[..., 1] * y[:, None] + planes[..., 2]
    weights = weights / points[..., 2]
    weights = (weights / weights.sum(1, keepdim=True))[..., None]
    attributes = torch.cat([state.vertices, normals], -1).reshape(-1, 6)[rows]
    moving = (attributes * weights).sum(1)
    still = (torch.cat([mesh.base, mesh.lips[:, None]], 1)[corners] * weights).sum(1)
    position = moving[:, :3]
    normal = F.normalize(moving[:, 3:], dim=-1)
    view = F.normalize(subject.camera.position - position, dim=-1)
    normal = torch.where(((normal * view).sum(-1, keepdim=True) < -0.2), -normal, normal)
    lit = shadow.visibility(frame, position, normal)
    surface = shading.Surface(position, normal, normal, view, lit, torch.ones_like(lit))
    return _Samples(frame, mesh.material[face], still[:, :3], still[:, 3], surface)


def _shade_mesh(samples: _Samples, subject: Subject, state: FrameState) -> Tensor:
    """Linear light [N, 3] of all mesh samples."""
    colour = torch.zeros_like(samples.rest)
    shaders = {SKIN: _skin, EYE: _eye, TEETH: _teeth, TONGUE: _tongue, LASH: _lash, CLOTH: _cloth, ORAL: _lining}
    for material, shader in shaders.items():
        keep = (samples.material == material).nonzero().squeeze(1)
        colour[keep] = shader(samples.choose(keep), subject, state)
    return colour


def _relief(samples: _Samples, gradient: Tensor, state: FrameState, follows: Tensor) -> Tensor:
    """Tilts the normals by a slope given in rest space."""
    rotation = state.pose.rotation[samples.frame]
    turned = torch.einsum("nij,nj->ni", rotation, gradient)
    slope = torch.lerp(gradient, turned, follows[:, None])
    return F.normalize(samples.surface.normal - slope, dim=-1)


def _with(surface: shading.Surface, normal: Tensor, occlusion: Tensor) -> shading.Surface:
    """The same samples with another normal and occlusion."""
    return shading.Surface(surface.position, normal, surface.smooth, surface.view, surface.shadow, occlusion)


def _skin(samples: _Samples, subject: Subject, state: FrameState) -> Tensor:
    baked = appearance.sample(subject.skin, appearance.skin_coordinates(samples.rest))
    albedo, gradient, _, rough, shine, occlusion = baked.split([3, 3, 1, 1, 1, 1], 1)
    normal = _relief(samples, gradient, state, pose.head_weight(samples.rest))
    collar = clothes.neckline(subject.identity.outfit, samples.rest)
    covered = 1 - 0.6 * smoothstep(-0.14, 0.02, collar)
    occlusion = occlusion[:, 0] * covered
    surface = _with(samples.surface, normal, occlusion)
    return shading.shade_skin(surface, subject.lights, albedo, rough[:, 0], shine[:, 0])


def _eye(samples: _Samples, subject: Subject, state: FrameState) -> Tensor:
    side = (samples.rest[:, 0] < 0).long()
    centre = state.eyes[samples.frame, side]
    gaze = state.pose.eye_direction[samples.frame]
    return mouth.shade_eye(samples.surface, subject.lights, subject.identity.skin, subject.noise, (centre, gaze))


def _teeth(samples: _Samples, subject: Subject, state: FrameState) -> Tensor:
    opening = state.opening[samples.frame]
    return mouth.shade_teeth(samples.surface, subject.lights, subject.identity.skin, samples.rest, opening)


def _tongue(samples: _Samples, subject: Subject, state: FrameState) -> Tensor:
    opening = state.opening[samples.frame]
    return mouth.shade_tongue(samples.surface, subject.lights, subject.noise, samples.rest, opening)


def _lining(samples: _Samples, subject: Subject, state: FrameState) -> Tensor:
    return mouth.shade_lining(samples.surface, subject.lights, samples.rest, samples.lip, subject.identity.skin.lip)


def _lash(samples: _Samples, subject: Subject, state: FrameState) -> Tensor:
    return samples.rest.new_tensor([[0.012, 0.009, 0.008]]).expand_as(samples.rest) * subject.lights.sky


def _cloth(samples: _Samples, subject: Subject, state: FrameState) -> Tensor:
    colour, gradient = clothes.fabric(subject.identity.outfit, samples.rest, subject.noise)
    normal = F.normalize(samples.surface.normal - gradient, dim=-1)
    return shading.shade_cloth(_with(samples.surface, normal, samples.surface.occlusion), subject.lights, colour)


def _shade_hair(frame: Tensor, point: Tensor, subject: Subject, state: FrameState, shadow: ShadowMap) -> Tensor:
    """Linear light [N, 3] of hair samples."""
    strands = subject.strands
    rotation = state.pose.rotation[frame]
    weight = strands.weight[point][:, None]

    def turn(vectors: Tensor) -> Tensor:
        rest = vectors[point]
        return F.normalize(torch.lerp(rest, torch.einsum("nij,nj->ni", rotation, rest), weight), dim=-1)

    normal, tangent = turn(strands.normal), turn(strands.tangent)
    moved = torch.einsum("nij,nj->ni", rotation, strands.points[point] - subject.pivot)
    moved = moved + subject.pivot + state.pose.shift[frame]
    position = torch.lerp(strands.points[point] + state.pose.torso_shift[frame], moved, weight)
    view = F.normalize(subject.camera.position - position, dim=-1)
    lit = shadow.visibility(frame, position, normal)
    surface = shading.Surface(position, normal, normal, view, lit, strands.occlusion[point])
    return shading.shade_hair(surface, subject.lights, strands.colour[point], tangent)


def _resolve(colour: Tensor, alpha: Tensor, background: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Box filter, background and tone curve -> uint8 [F, size, size, 3]."""
    frames, size, supersample = shape
    fine = torch.cat([colour.clamp(0, 6), alpha[:, None]], 1).view(frames, size, supersample, size, supersample, 4)
    mean = fine.mean((2, 4))
    linear = mean[..., :3] + (1 - mean[..., 3:]) * background
    return (shading.tone_map(linear) * 255 + 0.5).to(torch.uint8)
