"""Three-dimensional rotary position embedding with interleaved pairs.

Angles are computed in float64 from integer positions; the rotation runs in float32.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class RopeTables(NamedTuple):
    """Cosines and sines of every token's angles, each `[L, E / 2]` float32."""

    cos: Tensor
    sin: Tensor


def axis_widths(head_dim: int) -> tuple[int, int, int]:
    """Split a head's width over time, height and width; `ValueError` if it is odd or below 6."""
    if head_dim % 2 or head_dim < 6:
        raise ValueError(f"head_dim must be even and at least 6, got {head_dim}")
    # The published split: time takes the rest, 44, 42 and 42 of 128.
    spatial = 2 * (head_dim // 6)
    return head_dim - 2 * spatial, spatial, spatial


def grid_positions(num_frames: int, height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Return the (time, row, column) of every token of a grid in raster order, `[tokens, 3]` int64."""
    axes = [torch.arange(size, device=device) for size in (num_frames, height, width)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)


def rope_tables(positions_L3: Tensor, head_dim: int, theta: float = 10_000.0) -> RopeTables:
    """Compute the rotation of each token from its integer (time, row, column), `[L, 3]`.

    `theta` is the base of the geometric series of frequencies.
    """
    cos, sin = _rotations(positions_L3, list(axis_widths(head_dim)), theta).unbind(0)
    return RopeTables(cos, sin)


# An opaque operator: the compiler would fuse the float64 trigonometry into every kernel that rotates, and
# repeat it there, which doubled the time of a training step.
@torch.library.custom_op("livetalk::rotations", mutates_args=())
def _rotations(positions_L3: Tensor, widths: list[int], theta: float) -> Tensor:
    """Return cosines and sines of all pairs, `[2, L, E / 2]` float32."""
    angles = []
    for axis, width in enumerate(widths):
        exponents = torch.arange(0, width, 2, dtype=torch.float64, device=positions_L3.device) / width
        angles.append(torch.outer(positions_L3[:, axis].double(), theta**-exponents))
    angle = torch.cat(angles, dim=1)
    return torch.stack((angle.cos(), angle.sin())).float()


@_rotations.register_fake
def _(positions_L3: Tensor, widths: list[int], theta: float) -> Tensor:
    return positions_L3.new_empty((2, positions_L3.shape[0], sum(widths) // 2), dtype=torch.float32)


def apply_rope(x_BLNE: Tensor, rope: RopeTables) -> Tensor:
    """Rotate each pair (2i, 2i + 1) of heads `[B, L, N, E]` by its token's angles; return float32."""
    if torch.compiler.is_compiling():
        return rotate_real(x_BLNE, rope)
    return rotate_complex(x_BLNE, rope)


def rotate_real(x_BLNE: Tensor, rope: RopeTables) -> Tensor:
    """Compute `apply_rope` in real arithmetic, which a compiler fuses."""
    cos, sin = rope.cos[:, None], rope.sin[:, None]
    even, odd = x_BLNE.float().reshape(*x_BLNE.shape[:-1], -1, 2).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


def rotate_complex(x_BLNE: Tensor, rope: RopeTables) -> Tensor:
    """Compute `apply_rope` as one complex product, the fastest form without a compiler."""
    pairs = torch.view_as_complex(x_BLNE.float().reshape(*x_BLNE.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * torch.complex(rope.cos, rope.sin)[:, None]).flatten(-2)
