"""Colour matching: the mean and deviation of each frame in Lab follow the reference, which prevents drift.

Shapes: B batch · F frames · H W height, width. Pixels are float32.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from livetalk.ops.transfer import to_device

# Linear sRGB to XYZ under D65, and the white point by which XYZ is divided (IEC 61966-2-1, CIE 15).
RGB_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
WHITE = (0.95047, 1.0, 1.08883)
CUBE_THRESHOLD = 0.008856
LINEAR_SLOPE = 7.787
LINEAR_OFFSET = 16 / 116

# Below this many Lab units the deviation of a frame is rounding noise, which must not be amplified.
MIN_DEVIATION = 1e-3


@dataclass(frozen=True, slots=True)
class ColorStatistics:
    """Mean and standard deviation of L, a and b per frame: each `[B, 3, F, 1, 1]` float32, in Lab units."""

    mean: Tensor
    std: Tensor

    @property
    def num_bytes(self) -> int:
        return self.mean.nbytes + self.std.nbytes


MatchColor = Callable[[Tensor, ColorStatistics, float], Tensor]
"""(pixels, reference, strength) -> pixels: `match_color` or a fused form of it."""


def measure_color(pixels: Tensor) -> ColorStatistics:
    """Measure each frame of `[B, 3, F, H, W]`, -1..1."""
    return _statistics(rgb_to_lab(_to_unit(pixels)))


def match_color(pixels: Tensor, reference: ColorStatistics, strength: float = 1.0) -> Tensor:
    """Give each frame of `[B, 3, F, H, W]`, -1..1, the mean and deviation of the reference in Lab.

    `strength` 0 leaves the frames unchanged, 1 matches them fully.
    """
    if strength == 0:
        return pixels.float()
    lab = rgb_to_lab(_to_unit(pixels))
    source = _statistics(lab)
    gain = torch.where(source.std < MIN_DEVIATION, 1.0, reference.std / source.std.clamp_min(MIN_DEVIATION))
    matched = lab_to_rgb((lab - source.mean) * gain + reference.mean) * 2 - 1
    return matched if strength == 1 else torch.lerp(pixels.float(), matched, strength)


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """Convert sRGB `[B, 3, ...]`, 0..1, to Lab (L 0..100)."""
    # Clamps inside `where` keep the gradient of the branch that is not selected finite.
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055).clamp_min(0) ** 2.4, rgb / 12.92)
    xyz = _mix(torch.tensor(RGB_TO_XYZ, dtype=torch.float64) / torch.tensor(WHITE)[:, None], linear)
    xyz = xyz.clamp(0, 1)
    f = torch.where(
        xyz > CUBE_THRESHOLD, xyz.clamp_min(CUBE_THRESHOLD) ** (1 / 3), LINEAR_SLOPE * xyz + LINEAR_OFFSET
    )
    x, y, z = f.unbind(1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=1)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """Convert Lab `[B, 3, ...]` to sRGB, clamped to 0..1."""
    lightness, a, b = lab.unbind(1)
    y = (lightness + 16) / 116
    f = torch.stack((y + a / 500, y, y - b / 200), dim=1)
    cube = f**3
    xyz = torch.where(cube > CUBE_THRESHOLD, cube, (f - LINEAR_OFFSET) / LINEAR_SLOPE)
    to_rgb = torch.linalg.inv(torch.tensor(RGB_TO_XYZ, dtype=torch.float64)) * torch.tensor(WHITE)
    linear = _mix(to_rgb, xyz).clamp(0, 1)
    return torch.where(
        linear > 0.0031308, 1.055 * linear.clamp_min(1e-8) ** (1 / 2.4) - 0.055, 12.92 * linear
    )


def _to_unit(pixels: Tensor) -> Tensor:
    return ((pixels.float() + 1) / 2).clamp(0, 1)


def _mix(matrix: Tensor, x: Tensor) -> Tensor:
    """Apply a `[3, 3]` matrix to the channels of `[B, 3, ...]`."""
    return torch.einsum("ij,bj...->bi...", to_device(matrix.to(x.dtype), x.device), x)


def _statistics(lab: Tensor) -> ColorStatistics:
    std, mean = torch.std_mean(lab, dim=(3, 4), correction=0, keepdim=True)
    return ColorStatistics(mean, std)
