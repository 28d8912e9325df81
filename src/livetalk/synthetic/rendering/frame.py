"""Rendering of a batch of frames: projection, rasterisation, shading, background, filtering."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from livetalk.synthetic.noise import smoothstep
from livetalk.synthetic.people import pose
from livetalk.synthetic.people.head import CLOTH, EYE, LASH, ORAL, SKIN, TEETH, TONGUE
from livetalk.synthetic.rendering import appearance, clothes, mouth, shading
from livetalk.synthetic.rendering.finish import develop
from livetalk.synthetic.rendering.rasterize import (
    EMPTY,
    Triangles,
    draw_points,
    draw_triangles,
    edge_planes,
    new_buffer,
    unpack_ids,
)  # fmt: skip
from livetalk.synthetic.rendering.scene import Mesh, Subject
from livetalk.synthetic.rendering.shadow import ShadowMap

# Above all triangle IDs, which share the buffer.
_HAIR_ID = 1 << 20
_CLOSED = 0.5
"""Share of hair around a sample from which it counts as hair, which closes pinholes."""
_SHELL = 0.022
"""Hair up to this depth (decimetres) below the visible surface is kept, so that head turns open no gaps."""


@dataclass(frozen=True)
class FrameState:
    """Geometry of a batch of frames: vertices [F, V, 3], eye centres [F, 2, 3], pose, mouth opening [F]."""

    vertices: Tensor
    eyes: Tensor
    pose: pose.Pose
    opening: Tensor


@dataclass(frozen=True)
class _Samples:
    """Visible samples of the mesh: frame, material, lip [N], interpolated rest [N, 3] and the surface."""

    frame: Tensor
    material: Tensor
    rest: Tensor
    lip: Tensor
    surface: shading.Surface

    def choose(self, keep: Tensor) -> "_Samples":
        """Return the samples at these indices."""
        s = self.surface
        parts = (s.position, s.normal, s.smooth, s.view, s.shadow, s.occlusion)
        surface = shading.Surface(*(part[keep] for part in parts))
        return _Samples(self.frame[keep], self.material[keep], self.rest[keep], self.lip[keep], surface)


def render_frames(subject: Subject, mesh: Mesh, state: FrameState, size: int, supersample: int) -> Tensor:
    """Render a batch of frames, uint8 [F, size, size, 3]."""
    frames = len(state.vertices)
    fine = size * supersample
    normals = pose.vertex_normals(state.vertices, mesh.corners)
    hair_points = state.pose.move(subject.strands.points[None], subject.strands.weight)
    screen = subject.camera.project(state.vertices, fine)
    buffer = new_buffer(frames, fine, fine, screen.device)
    _draw(buffer, screen, subject, mesh, fine)
    hair_screen = subject.camera.project(hair_points, fine)
    draw_points(buffer, hair_screen, _HAIR_ID, (fine, fine))
    # Every third hair point suffices at the resolution of the shadow map.
    shadow = ShadowMap.draw(subject, mesh, state.vertices, hair_points[:, ::3])
    covered = (buffer != EMPTY).nonzero().squeeze(1)
    ids = unpack_ids(buffer[covered])
    is_hair = ids >= _HAIR_ID
    colour = torch.zeros(frames * fine * fine, 3, device=screen.device)
    on_mesh = covered[~is_hair]
    samples = _interpolate(on_mesh, ids[~is_hair], (state, normals, screen), (subject, mesh, shadow), fine)
    colour[on_mesh] = _shade_mesh(samples, subject, state)
    on_hair = covered[is_hair]
    colour[on_hair] = _shade_hair(on_hair // (fine * fine), ids[is_hair] - _HAIR_ID, subject, state, shadow)
    bare = (buffer == EMPTY).nonzero().squeeze(1)
    colour[bare] = _behind(subject.background, bare, size, supersample)
    hairy = torch.zeros(len(buffer), device=screen.device)
    hairy[on_hair] = 1
    display = _resolve(colour, hairy, (frames, size, supersample))
    if subject.identity.world.finish is not None:
        display = develop(display, subject.identity.world.finish)
    return (display * 255 + 0.5).to(torch.uint8).contiguous()


def visible_hair(subject: Subject, mesh: Mesh, still: pose.Pose, fine: int) -> Tensor:
    """Return which hair points [P] are visible in any of the poses of the neutral face."""
    frames = len(still.rotation)
    weight = pose.head_weight(mesh.base)
    screen = subject.camera.project(still.move(subject.rest[None], weight), fine)
    buffer = new_buffer(frames, fine, fine, screen.device)
    _draw(buffer, screen, subject, mesh, fine)
    points = still.move(subject.strands.points[None], subject.strands.weight)
    hair_screen = subject.camera.project(points, fine)
    draw_points(buffer, hair_screen, _HAIR_ID, (fine, fine))
    x, y, depth = hair_screen.unbind(-1)
    offset = torch.arange(frames, device=buffer.device)[:, None] * (fine * fine)
    pixel = offset + y.long().clamp(0, fine - 1) * fine + x.long().clamp(0, fine - 1)
    nearest = buffer[pixel]
    front = (nearest >> 32).to(torch.int32).view(torch.float32)
    return ((depth - front < _SHELL) & (nearest != EMPTY)).any(0)


def _draw(buffer: Tensor, screen: Tensor, subject: Subject, mesh: Mesh, fine: int) -> None:
    """Draw the mesh into the buffer."""
    first_cloth = len(mesh.solid) + len(mesh.lashes)
    area = (fine, fine)
    draw_triangles(buffer, screen, Triangles(mesh.solid), area)

    def lash(face: Tensor, weights: Tensor) -> Tensor:
        return (mesh.lash_cut[face] * weights).sum(1)

    def collar(face: Tensor, weights: Tensor) -> Tensor:
        rest = (mesh.base[mesh.cloth[face]] * weights[..., None]).sum(1)
        return clothes.neckline(subject.identity.outfit, rest)

    draw_triangles(
        buffer, screen, Triangles(mesh.lashes, len(mesh.solid), lash, two_sided=True, nearer=0.012), area
    )
    draw_triangles(
        buffer, screen, Triangles(mesh.cloth, first_cloth, collar, two_sided=True, nearer=0.025), area
    )


def _interpolate(
    covered: Tensor,
    face: Tensor,
    geometry: tuple[FrameState, Tensor, Tensor],
    scene: tuple[Subject, Mesh, ShadowMap],
    fine: int,
) -> _Samples:
    """Interpolate the mesh at the covered samples."""
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
    # Perspective correction: attributes are linear in 1 / depth, not on the screen.
    weights = weights / points[..., 2]
    weights = (weights / weights.sum(1, keepdim=True))[..., None]
    attributes = torch.cat([state.vertices, normals], -1).reshape(-1, 6)[rows]
    moving = (attributes * weights).sum(1)
    still = (torch.cat([mesh.base, mesh.lips[:, None]], 1)[corners] * weights).sum(1)
    position = moving[:, :3]
    normal = F.normalize(moving[:, 3:], dim=-1)
    view = F.normalize(subject.camera.position - position, dim=-1)
    # Two-sided layers, such as the collar, are seen from behind.
    normal = torch.where(((normal * view).sum(-1, keepdim=True) < -0.2), -normal, normal)
    lit = shadow.visibility(frame, position, normal)
    surface = shading.Surface(position, normal, normal, view, lit, torch.ones_like(lit))
    return _Samples(frame, mesh.material[face], still[:, :3], still[:, 3], surface)


def _shade_mesh(samples: _Samples, subject: Subject, state: FrameState) -> Tensor:
    """Return linear light [N, 3] of all mesh samples."""
    colour = torch.zeros_like(samples.rest)
    shaders = {
        SKIN: _skin,
        EYE: _eye,
        TEETH: _teeth,
        TONGUE: _tongue,
        LASH: _lash,
        CLOTH: _cloth,
        ORAL: _lining,
    }
    for material, shader in shaders.items():
        keep = (samples.material == material).nonzero().squeeze(1)
        colour[keep] = shader(samples.choose(keep), subject, state)
    return colour


def _relief(samples: _Samples, gradient: Tensor, state: FrameState, follows: Tensor) -> Tensor:
    """Return normals tilted by a slope in rest space."""
    rotation = state.pose.rotation[samples.frame]
    turned = torch.einsum("nij,nj->ni", rotation, gradient)
    slope = torch.lerp(gradient, turned, follows[:, None])
    return F.normalize(samples.surface.normal - slope, dim=-1)


def _with(surface: shading.Surface, normal: Tensor, occlusion: Tensor) -> shading.Surface:
    """Return the same samples with another normal and occlusion."""
    return shading.Surface(surface.position, normal, surface.smooth, surface.view, surface.shadow, occlusion)


def _skin(samples: _Samples, subject: Subject, state: FrameState) -> Tensor:
    baked = appearance.sample(subject.skin, appearance.skin_coordinates(samples.rest))
    albedo, gradient, _, rough, shine, occlusion = torch.split(baked, [3, 3, 1, 1, 1, 1], 1)
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
    return mouth.shade_eye(
        samples.surface, subject.lights, subject.identity.skin, subject.noise, (centre, gaze)
    )


def _teeth(samples: _Samples, subject: Subject, state: FrameState) -> Tensor:
    opening = state.opening[samples.frame]
    identity = subject.identity
    return mouth.shade_teeth(
        samples.surface, subject.lights, (identity.skin, identity.world.teeth), samples.rest, opening
    )


def _tongue(samples: _Samples, subject: Subject, state: FrameState) -> Tensor:
    opening = state.opening[samples.frame]
    return mouth.shade_tongue(samples.surface, subject.lights, subject.noise, samples.rest, opening)


def _lining(samples: _Samples, subject: Subject, state: FrameState) -> Tensor:
    return mouth.shade_lining(
        samples.surface, subject.lights, samples.rest, samples.lip, subject.identity.skin.lip
    )


def _lash(samples: _Samples, subject: Subject, state: FrameState) -> Tensor:
    return samples.rest.new_tensor([[0.012, 0.009, 0.008]]).expand_as(samples.rest) * subject.lights.sky


def _cloth(samples: _Samples, subject: Subject, state: FrameState) -> Tensor:
    colour, gradient = clothes.fabric(
        subject.identity.outfit, subject.identity.world.cloth, samples.rest, subject.noise
    )
    normal = F.normalize(samples.surface.normal - gradient, dim=-1)
    return shading.shade_cloth(
        _with(samples.surface, normal, samples.surface.occlusion), subject.lights, colour
    )


def _shade_hair(
    frame: Tensor, point: Tensor, subject: Subject, state: FrameState, shadow: ShadowMap
) -> Tensor:
    """Return linear light [N, 3] of hair samples."""
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
    # Curls scatter the highlight, which smooth strands show as a band.
    lustre = 0.25 if subject.identity.hair.style in ("afro", "curly", "buzz") else 1.0
    return shading.shade_hair(surface, subject.lights, strands.colour[point], tangent, lustre)


def _behind(background: Tensor, bare: Tensor, size: int, supersample: int) -> Tensor:
    """Return the background [N, 3] at uncovered samples."""
    fine = size * supersample
    row = (bare // fine) % fine // supersample
    return background[row, bare % fine // supersample]


def _resolve(colour: Tensor, hairy: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Smooth hair, filter and apply the tone curve, to display values 0..1, [F, size, size, 3]."""
    frames, size, supersample = shape
    fine = size * supersample
    picture = colour.clamp(0, 6).view(frames, fine, fine, 3).permute(0, 3, 1, 2)
    # Hair covers single samples; without averaging over its neighbours it would flicker.
    mask = hairy.view(frames, 1, fine, fine)
    share = F.avg_pool2d(mask, 5, 1, 2)
    hair = F.avg_pool2d(picture * mask, 5, 1, 2) / share.clamp_min(1e-3)
    picture = torch.where((mask < 0.5) & (share > _CLOSED), hair, picture)
    near = F.max_pool2d(mask, 3, 1, 1) > 0
    picture = torch.where(near, F.avg_pool2d(picture, 3, 1, 1, count_include_pad=False), picture)
    linear = F.avg_pool2d(picture, supersample).permute(0, 2, 3, 1)
    return shading.tone_map(linear)
