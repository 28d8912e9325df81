"""Vertex positions of the head in every frame: facial units, gaze, head and shoulder motion."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from livetalk.synthetic.noise import smoothstep
from livetalk.synthetic.people.head import EYE, TONGUE, HeadAsset
from livetalk.synthetic.performance.performance import FACE_UNITS, Performance

HEAD_HEIGHT = 2.3
"""Decimetres per head height, the unit of `Performance.head_translation`."""

_UNIT = {name: i for i, name in enumerate(FACE_UNITS)}
_LOOK = ("eyeLookDown", "eyeLookUp", "eyeLookIn", "eyeLookOut")
_GAZE_LIMIT = 0.6


@dataclass(frozen=True)
class Pose:
    """Rigid motion of a batch of F frames."""

    rotation: Tensor  # [F, 3, 3], head relative to torso
    pivot: Tensor  # [3], centre of the rotation, in the neck
    shift: Tensor  # [F, 3], head translation, decimetres
    torso_shift: Tensor  # [F, 3], translation of the shoulders
    eye_direction: Tensor  # [F, 3], viewing direction of both eyes

    def slice(self, chosen: slice) -> "Pose":
        """Return the pose of some of the frames."""
        parts = (self.shift, self.torso_shift, self.eye_direction)
        return Pose(self.rotation[chosen], self.pivot, *(part[chosen] for part in parts))

    def move(self, points: Tensor, weight: Tensor) -> Tensor:
        """Move points [F or 1, N, 3] that follow the head with weight [N] and otherwise the torso."""
        turned = (points - self.pivot) @ self.rotation.transpose(1, 2) + self.pivot + self.shift[:, None]
        return torch.lerp(points + self.torso_shift[:, None], turned, weight[None, :, None])


def euler(angles: Tensor) -> Tensor:
    """Return rotation matrices [F, 3, 3] from yaw, pitch, roll [F, 3]; roll is applied first."""
    cosine, sine = angles.cos(), angles.sin()
    zero, one = torch.zeros_like(angles[:, 0]), torch.ones_like(angles[:, 0])
    cy, cp, cr = cosine.unbind(1)
    sy, sp, sr = sine.unbind(1)
    yaw = torch.stack([cy, zero, sy, zero, one, zero, -sy, zero, cy], 1).view(-1, 3, 3)
    pitch = torch.stack([one, zero, zero, zero, cp, -sp, zero, sp, cp], 1).view(-1, 3, 3)
    roll = torch.stack([cr, -sr, zero, sr, cr, zero, zero, zero, one], 1).view(-1, 3, 3)
    return yaw @ pitch @ roll


def head_weight(rest: Tensor) -> Tensor:
    """Return how much each rest position [..., 3] follows the head (1) rather than the torso (0)."""
    return smoothstep(5.85, 6.75, rest[..., 1] + 0.45 * (rest[..., 2] - 0.2))


def pose_of(performance: Performance, pivot: Tensor, to_camera: Tensor, device: torch.device) -> Pose:
    """Return the rigid motion of all frames of a performance."""
    rotation = euler(torch.tensor(performance.head_rotation, device=device))
    shift = torch.tensor(performance.head_translation, device=device) * HEAD_HEIGHT
    breath = torch.tensor(performance.breath, device=device)
    lift = torch.stack([torch.zeros_like(breath), 0.012 * breath, 0.012 * breath], 1)
    gaze = torch.tensor(performance.gaze, device=device)
    turn = euler(torch.cat([gaze, torch.zeros_like(gaze[:, :1])], 1))
    direction = turn @ to_camera
    local = torch.einsum("fji,fj->fi", rotation, direction)
    # Eyes turn about 37 degrees at most; beyond that they would show only white.
    limited = local[:, :2].clamp(-_GAZE_LIMIT, _GAZE_LIMIT)
    depth = local[:, 2:].clamp_min(0.3)
    local = torch.nn.functional.normalize(torch.cat([limited, depth], 1), dim=1)
    return Pose(rotation, pivot, shift, 0.35 * shift + lift, torch.einsum("fij,fj->fi", rotation, local))


class FaceRig:
    """Facial units with corrections: rigid eyes, adjusted teeth and tongue, lids that follow the gaze."""

    def __init__(self, head: HeadAsset, device: torch.device) -> None:
        units = head.units.copy()
        eyes = head.vertices_of(EYE)
        for name, index in _UNIT.items():
            if name.startswith(_LOOK):
                units[index][eyes] = 0
        _mend_mouth(head, units)
        self.units = torch.from_numpy(units).to(device).reshape(len(FACE_UNITS), -1)
        self.eye_ids = [torch.from_numpy(eyes[head.base[eyes, 0] * side > 0]).to(device) for side in (1, -1)]
        self.weight = head_weight(torch.from_numpy(head.base)).to(device)

    def vertices(self, rest: Tensor, units: Tensor, pose: Pose) -> tuple[Tensor, Tensor]:
        """Return world positions [F, V, 3] of all vertices and eye centres [F, 2, 3] (left, right).

        `rest` [V, 3] is the identity's neutral face, `units` [F, 52] the facial units of the frames of
        `pose`.
        """
        units = self._with_lids(units, pose)
        local = rest + (units @ self.units).view(len(units), -1, 3)
        to_local = torch.einsum("fji,fj->fi", pose.rotation, pose.eye_direction)
        turn = _turn_to(to_local)
        centres = []
        for ids in self.eye_ids:
            centre = eye_centre(rest[ids])
            local[:, ids] = (local[:, ids] - centre) @ turn.transpose(1, 2) + centre
            centres.append(centre)
        moved = pose.move(local, self.weight)
        eyes = pose.move(torch.stack(centres)[None], torch.ones(2, device=rest.device))
        return moved, eyes

    def _with_lids(self, units: Tensor, pose: Pose) -> Tensor:
        """Return the units [F, 52] with lids that follow the gaze."""
        local = torch.einsum("fji,fj->fi", pose.rotation, pose.eye_direction)
        units = units.clone()
        up, right = local[:, 1] * 1.6, local[:, 0] * 1.2
        for side, sign in (("Left", 1.0), ("Right", -1.0)):
            units[:, _UNIT[f"eyeLookUp{side}"]] += up.clamp(0, 0.7)
            units[:, _UNIT[f"eyeLookDown{side}"]] += (-up).clamp(0, 0.7)
            units[:, _UNIT[f"eyeLookOut{side}"]] += (right * sign).clamp(0, 0.6)
            units[:, _UNIT[f"eyeLookIn{side}"]] += (-right * sign).clamp(0, 0.6)
        return units


def eye_centre(vertices: Tensor) -> Tensor:
    """Return the centre [3] of an eyeball from its vertices [N, 3]; the cornea makes it longer in z."""
    low, high = vertices.amin(0), vertices.amax(0)
    centre = (low + high) / 2
    centre[2] = low[2] + (high[1] - low[1]) / 2
    return centre


def _turn_to(direction: Tensor) -> Tensor:
    """Return rotations [F, 3, 3] that turn +z to the directions [F, 3] without rolling."""
    yaw = torch.atan2(direction[:, 0], direction[:, 2])
    pitch = -torch.asin(direction[:, 1].clamp(-1, 1))
    return euler(torch.stack([yaw, pitch, torch.zeros_like(yaw)], 1))


def _mend_mouth(head: HeadAsset, units: NDArray[np.float32]) -> None:
    """Lower the tongue and lift the upper lip a little when the jaw opens, in place."""
    jaw = units[_UNIT["jawOpen"]]
    tongue = head.vertices_of(TONGUE)
    jaw[tongue, 1] -= 0.10
    lift = units[_UNIT["mouthUpperUpLeft"]] + units[_UNIT["mouthUpperUpRight"]]
    jaw += 0.30 * lift


def vertex_normals(vertices: Tensor, triangles: Tensor) -> Tensor:
    """Return unit normals [F, V, 3] of vertices [F, V, 3], averaged over triangles [T, 3] by area."""
    a, b, c = (vertices[:, triangles[:, k]] for k in range(3))
    faces = torch.linalg.cross(b - a, c - a)
    normals = torch.zeros_like(vertices)
    for k in range(3):
        normals.index_add_(1, triangles[:, k], faces)
    return torch.nn.functional.normalize(normals, dim=-1, eps=1e-9)
