"""Colour matching on Triton: `livetalk.streaming.color.match_color` in two passes over the frames."""

import functools
import importlib

import torch
from torch import Tensor

from livetalk.streaming import color
from livetalk.streaming.color import ColorStatistics


def match_color_fused(pixels: Tensor, reference: ColorStatistics, strength: float = 1.0) -> Tensor:
    """Compute `match_color` for `pixels` `[B, 3, F, H, W]`, -1..1, on a GPU; returns float32."""
    if strength == 0:
        return pixels.float()
    # Imported on use, because the package works without Triton.
    kernels = importlib.import_module("livetalk.ops.kernels.color")
    target = kernels.ColorTarget(
        reference.mean.flatten(1), reference.std.flatten(1), color.MIN_DEVIATION, strength
    )
    matched: Tensor = kernels.match_color_on_triton(pixels, target, kernels.LabSpace(*_lab_space()))
    return matched


@functools.cache
def _lab_space() -> tuple[tuple[float, ...], tuple[float, ...], float, float, float]:
    """Return the fields of the kernels' `LabSpace`."""
    # In float64, so that the only rounding is the final one to the kernels' float32.
    to_xyz = torch.tensor(color.RGB_TO_XYZ, dtype=torch.float64) / torch.tensor(color.WHITE)[:, None]
    to_rgb = torch.linalg.inv(to_xyz)
    return (
        tuple(to_xyz.flatten().tolist()),
        tuple(to_rgb.flatten().tolist()),
        color.CUBE_THRESHOLD,
        color.LINEAR_SLOPE,
        color.LINEAR_OFFSET,
    )
