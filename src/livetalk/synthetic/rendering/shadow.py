"""Soft shadow of the key light: a small depth map per frame with filtered lookups."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from livetalk.synthetic.rendering.rasterize import EMPTY, Triangles, draw_points, draw_triangles, new_buffer
from livetalk.synthetic.rendering.scene import Mesh, Subject

_SIZE = 224
_EXTENT = 2.6
_CENTRE = (0.0, 6.9, 0.6)
_DISTANCE = 8.0
# Offsets in texels on an irregular pattern, whose error looks like noise and not like bands.
_TAPS = (
    (-1.2, -0.5),
    (-0.5, 1.1),
    (0.4, -1.2),
    (1.2, 0.5),
    (0.0, 0.0),
    (-1.0, 0.6),
    (1.0, -0.6),
    (0.6, 1.0),
    (-0.6, -1.0),
)


@dataclass(frozen=True)
class ShadowMap:
    """Depth from the key light: `depth` [F * S * S]; `axes` [3, 3] are right, down, forward of the light."""

    depth: Tensor
    axes: Tensor
    softness: float

    @staticmethod
    def draw(subject: Subject, mesh: Mesh, vertices: Tensor, hair: Tensor) -> "ShadowMap":
        """Draw the solid mesh and hair as seen from the light: vertices [F, V, 3], hair points [F, P, 3]."""
        towards = subject.lights.directions[0]
        right = F.normalize(torch.linalg.cross(towards.new_tensor([0.0, 1.0, 0.0]), towards), dim=0)
        axes = torch.stack([right, torch.linalg.cross(right, -towards), -towards])
        frames = len(vertices)
        buffer = new_buffer(frames, _SIZE, _SIZE, vertices.device)
        draw_triangles(
            buffer, _to_light(vertices, axes), Triangles(mesh.solid, two_sided=True), (_SIZE, _SIZE)
        )
        if hair.shape[1]:
            draw_points(buffer, _to_light(hair, axes), 0, (_SIZE, _SIZE))
        depth = (buffer >> 32).to(torch.int32).view(torch.float32)
        depth = torch.where(buffer == EMPTY, torch.full_like(depth, 1e3), depth)
        return ShadowMap(depth, axes, subject.lights.softness)

    def visibility(self, frame: Tensor, position: Tensor, normal: Tensor) -> Tensor:
        """Return the visibility of the key light at positions [N, 3] of frames [N]: 0 shadow .. 1 lit."""
        # The offset along the normal, and the tolerance in depth below, keep a surface from shadowing itself.
        seen = _to_light(position + 0.035 * normal, self.axes)
        total = torch.zeros_like(seen[:, 0])
        for dx, dy in _TAPS:
            x = (seen[:, 0] + dx * 1.6 * self.softness).clamp(0, _SIZE - 1)
            y = (seen[:, 1] + dy * 1.6 * self.softness).clamp(0, _SIZE - 1)
            index = frame * (_SIZE * _SIZE) + y.long() * _SIZE + x.long()
            behind = seen[:, 2] - self.depth[index]
            total = total + (1 - (behind - 0.035) / 0.06).clamp(0, 1)
        return total / len(_TAPS)


def _to_light(points: Tensor, axes: Tensor) -> Tensor:
    """Map world points [..., 3] to texel x, y and distance from the light, [..., 3]."""
    seen = (points - points.new_tensor(_CENTRE)) @ axes.T
    plane = (seen[..., :2] / _EXTENT * 0.5 + 0.5) * _SIZE
    return torch.cat([plane, seen[..., 2:] + _DISTANCE], -1)
