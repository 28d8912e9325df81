"""Hair of the head as strands: grown once per identity, drawn as dense points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from livetalk.data.synthetic.identity import Identity
from livetalk.data.synthetic.noise import Noise, smoothstep

if TYPE_CHECKING:
    from livetalk.data.synthetic.frame import Mesh


@dataclass(frozen=True)
class Strands:
    """Points along all strands: positions, normals of the hair's outer shape, tangents, colours, [P, ...]."""

    points: Tensor
    normal: Tensor
    tangent: Tensor
    colour: Tensor
    occlusion: Tensor
    weight: Tensor


def scalp_mask(identity: Identity, rest: Tensor, noise: Noise) -> Tensor:
    """How much the scalp is covered by hair at rest positions [..., 3], 0..1."""
    hair = identity.hair
    if hair.style == "bald":
        return torch.zeros(rest.shape[:-1], device=rest.device)
    x, y, z = rest[..., 0], rest[..., 1], rest[..., 2]
    wobble = 0.10 * (noise.fractal(rest * 5, 2) - 0.5)
    line = 7.93 + hair.hairline + 0.22 * hair.recede * smoothstep(0.12, 0.4, x.abs()) + 0.05 * hair.recede
    line = line - 0.10 * smoothstep(0.45, 0.65, x.abs())
    front = smoothstep(-0.05, 0.06, y - line + wobble)
    temple = smoothstep(0.93, 0.83, z + wobble) * smoothstep(7.22, 7.38, y + wobble)
    back = smoothstep(0.38, 0.28, z + wobble) * smoothstep(6.6, 6.8, y)
    sideburn = smoothstep(0.95, 0.88, z + wobble) * smoothstep(0.80, 0.86, z + wobble) * smoothstep(7.02, 7.1, y) * smoothstep(0.5, 0.6, x.abs())
    ear = smoothstep(0.73, 0.76, x.abs()) * smoothstep(7.56, 7.5, y) * smoothstep(0.15, 0.2, z)
    return torch.maximum(torch.maximum(front, temple), torch.maximum(back, sideburn)) * (1 - ear)


def grow(identity: Identity, rest: Tensor, mesh: Mesh, noise: Noise, size: int) -> Strands:
    e = torch.zeros(0, 3, device=rest.device)
    return Strands(e, e, e, e, e[:, 0], e[:, 0])
