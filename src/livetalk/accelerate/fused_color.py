"""Colour matching in two passes over the frames: `livetalk.streaming.color.match_color` on Triton."""

import functools
import importlib

import torch
from torch import Tensor

from livetalk.streaming import color
from livetalk.streaming.color import ColorStatistics


def match_color_fused(pixels: Tensor, reference: ColorStatistics, strength: float = 1.0) -> Tensor:
    """Give each frame the mean and deviation of the reference, in Lab.

    Args:
        pixels: `[B, 3, F, H, W]`, -1..1, on a device that Triton's kernels run on.
        reference: statistics of one frame, from `measure_color`.
        strength: 0 leaves the frames alone, 1 matches them fully.

    Returns:
        `[B, 3, F, H, W]` float32, -1..1.
    """
    if strength == 0:
        return pixels.float()
    # Not imported at the top: the package works without Triton.
    kernels = importlib.import_module("livetalk.ops.kernels.color")
    target = kernels.ColorTarget(
        reference.mean.flatten(1), reference.std.flatten(1), color.MIN_DEVIATION, strength
    )
    matched: Tensor = kernels.match_color_on_triton(pixels, target, kernels.LabSpace(*_lab_space()))
    return matched


@functools.cache
def _lab_space() -> tuple[tuple[float, ...], tuple[float, ...], float, float, float]:
    """Return the fields of the kernels' `LabSpace`."""
    to_xyz = torch.tensor(color.RGB_TO_XYZ, dtype=torch.float64) / torch.tensor(color.WHITE)[:, None]
    to_rgb = torch.linalg.inv(to_xyz)
    return (
        tuple(to_xyz.flatten().tolist()),
        tuple(to_rgb.flatten().tolist()),
        color.CUBE_THRESHOLD,
        color.LINEAR_SLOPE,
        color.LINEAR_OFFSET,
    )
