"""Inputs of rendering: the head mesh, strands of hair, and a subject prepared for rendering."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from livetalk.synthetic.noise import Noise, smoothstep
from livetalk.synthetic.people.head import CLOTH, LASH, SKIN, HeadAsset
from livetalk.synthetic.people.identity import Identity
from livetalk.synthetic.rendering.camera import Camera
from livetalk.synthetic.rendering.shading import LightRig


@dataclass(frozen=True)
class Mesh:
    """The head's triangles on a device, cloth last.

    Attributes:
        solid, lashes, cloth: triangles by drawing method.
    """

    base: Tensor  # [V, 3], rest positions of the unmorphed head
    corners: Tensor  # [T, 3], all triangles; `material` [T]
    material: Tensor
    solid: Tensor
    lashes: Tensor
    cloth: Tensor
    lash_cut: Tensor  # [L, 3], cut value of the lashes, negative where they are cut away
    lips: Tensor  # [V], painted lips

    @staticmethod
    def of(head: HeadAsset, device: torch.device) -> "Mesh":
        """Move the mesh to a device, with triangles ordered solid, lashes, cloth."""
        groups = [np.flatnonzero(~np.isin(head.material, (LASH, CLOTH)))]
        groups += [_upper_lashes(head), np.flatnonzero(head.material == CLOTH)]
        order = np.concatenate(groups)
        corners = torch.from_numpy(head.triangles[order]).to(device)
        solid, lashes, cloth = torch.split(corners, [len(g) for g in groups])
        base = torch.from_numpy(head.base).to(device)
        skin = torch.from_numpy(head.vertices_of(SKIN)).to(device)
        return Mesh(
            base=base,
            lash_cut=_lash_cut(base, lashes, skin),
            corners=corners,
            material=torch.from_numpy(head.material[order]).to(device),
            solid=solid,
            lashes=lashes,
            cloth=cloth,
            lips=torch.from_numpy(head.lips).to(device),
        )


def _upper_lashes(head: HeadAsset) -> NDArray[np.int64]:
    """Return the triangles of the upper lashes; lower ones look like combs at portrait size."""
    lashes = head.material == LASH
    return np.flatnonzero(lashes & (head.base[head.triangles, 1].max(1) > 7.285))


def _lash_cut(mesh_base: Tensor, lashes: Tensor, skin: Tensor) -> Tensor:
    """Return a cut value [L, 3] that leaves a narrow band of lash next to the lid, wider at the temple."""
    corners = mesh_base[lashes]
    away = torch.cdist(corners.reshape(-1, 3), mesh_base[skin]).amin(1).view(-1, 3)
    return 0.016 + 0.022 * smoothstep(0.28, 0.46, corners[..., 0].abs()) - away


@dataclass(frozen=True)
class Strands:
    """Points along all strands at rest."""

    points: Tensor  # [P, 3], positions
    normal: Tensor  # [P, 3], normals of the hair's outer shape
    tangent: Tensor  # [P, 3], direction from root to tip
    colour: Tensor  # [P, 3], linear
    occlusion: Tensor  # [P], 0..1
    weight: Tensor  # [P], 1 follows the head, 0 the torso

    def join(self, other: "Strands") -> "Strands":
        """Return these points followed by others."""
        pairs = zip(self._parts(), other._parts(), strict=True)
        return Strands(*(torch.cat(pair) for pair in pairs))

    def _parts(self) -> tuple[Tensor, ...]:
        return (self.points, self.normal, self.tangent, self.colour, self.occlusion, self.weight)

    def choose(self, keep: Tensor) -> "Strands":
        """Return the points at these indices."""
        return Strands(*(part[keep] for part in self._parts()))


@dataclass(frozen=True)
class Subject:
    """One identity prepared for rendering, on a device."""

    identity: Identity
    rest: Tensor  # [V, 3], neutral vertices
    pivot: Tensor  # [3], centre of head rotation, in the neck
    skin: Tensor  # [S, S, C], baked skin texture
    strands: Strands  # hair points
    background: Tensor  # [H, W, 3], linear light
    camera: Camera
    lights: LightRig
    noise: Noise
