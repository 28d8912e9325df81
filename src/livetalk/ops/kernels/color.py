"""Triton kernels that match the Lab mean and deviation of frames to a reference: measure, then map."""

# Kernels take every pointer and stride as an untyped argument.
# ruff: noqa: PLR0913
# mypy: disable-error-code="import-not-found,import-untyped,no-untyped-def,untyped-decorator"

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

PIXELS = 1024
"""Pixels per program."""


class LabSpace(NamedTuple):
    """Constants of the conversion between sRGB and Lab.

    Attributes:
        to_xyz: the matrix from linear RGB to XYZ divided by the white point, nine entries in row order.
    """

    to_xyz: tuple[float, ...]
    to_rgb: tuple[float, ...]  # its inverse
    cube_threshold: float  # Lab takes the cube root above it, and a line with `slope` and `offset` below it
    slope: float
    offset: float


class ColorTarget(NamedTuple):
    """Statistics that frames are matched to."""

    mean: Tensor  # of the reference in Lab, `[B, 3]` float32
    std: Tensor  # of the shape of `mean`
    min_deviation: float  # frames with a smaller deviation are not scaled
    strength: float  # 0 leaves frames unchanged, 1 matches them fully


@triton.jit
def _linear(value):
    """Convert a pixel value, -1..1, to linear light."""
    unit = tl.clamp((value + 1) / 2, 0.0, 1.0)
    # The sRGB curve of IEC 61966-2-1. The lower bound keeps the unused branch finite.
    curve = tl.exp2(2.4 * tl.log2((tl.maximum(unit, 0.04045) + 0.055) / 1.055))
    return tl.where(unit > 0.04045, curve, unit / 12.92)


@triton.jit
def _lab_part(x, THRESHOLD: tl.constexpr, SLOPE: tl.constexpr, OFFSET: tl.constexpr):
    """Apply Lab's compression to X, Y or Z."""
    x = tl.clamp(x, 0.0, 1.0)
    root = tl.exp2(tl.log2(tl.maximum(x, THRESHOLD)) / 3)
    return tl.where(x > THRESHOLD, root, SLOPE * x + OFFSET)


@triton.jit
def _load_lab(x, at, channel_stride, inside, SPACE: tl.constexpr, LINE: tl.constexpr):
    """Load pixels; return their Lab values and the original values."""
    red = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    green = tl.load(x + at + channel_stride, mask=inside, other=0.0).to(tl.float32)
    blue = tl.load(x + at + 2 * channel_stride, mask=inside, other=0.0).to(tl.float32)
    r, g, b = _linear(red), _linear(green), _linear(blue)
    fx = _lab_part(SPACE[0] * r + SPACE[1] * g + SPACE[2] * b, LINE[0], LINE[1], LINE[2])
    fy = _lab_part(SPACE[3] * r + SPACE[4] * g + SPACE[5] * b, LINE[0], LINE[1], LINE[2])
    fz = _lab_part(SPACE[6] * r + SPACE[7] * g + SPACE[8] * b, LINE[0], LINE[1], LINE[2])
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz), red, green, blue


@triton.jit
def _store_moments(out, value, inside, count):
    """Store the mean of values and the sum of their squared deviations."""
    mean = tl.sum(tl.where(inside, value, 0.0), 0) / count
    deviation = tl.where(inside, value - mean, 0.0)
    tl.store(out, mean)
    tl.store(out + 1, tl.sum(deviation * deviation, 0))


@triton.jit
def _measure_kernel(
    x,
    moments,
    num_pixels,
    frames,
    batch_stride,
    channel_stride,
    frame_stride,
    pixel_stride,
    SPACE: tl.constexpr,
    LINE: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Compute the moments of one tile of a frame."""
    frame = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    inside = pixel < num_pixels
    start = frame // frames * batch_stride + frame % frames * frame_stride
    lightness, a, b, _, _, _ = _load_lab(
        x, start + pixel.to(tl.int64) * pixel_stride, channel_stride, inside, SPACE, LINE
    )
    count = tl.minimum(num_pixels - tl.program_id(0) * PIXELS, PIXELS)
    out = moments + (frame * tl.num_programs(0) + tl.program_id(0)) * 6
    _store_moments(out, lightness, inside, count)
    _store_moments(out + 2, a, inside, count)
    _store_moments(out + 4, b, inside, count)


@triton.jit
def _xyz_part(f, THRESHOLD: tl.constexpr, SLOPE: tl.constexpr, OFFSET: tl.constexpr):
    """Invert `_lab_part`."""
    cube = f * f * f
    return tl.where(cube > THRESHOLD, cube, (f - OFFSET) / SLOPE)


@triton.jit
def _store_pixel(out, at, inside, linear, before, strength):
    """Blend linear light, converted to a pixel value -1..1, with the original value and store it."""
    linear = tl.clamp(linear, 0.0, 1.0)
    curve = 1.055 * tl.exp2(tl.log2(tl.maximum(linear, 1e-8)) / 2.4) - 0.055
    value = tl.where(linear > 0.0031308, curve, 12.92 * linear) * 2 - 1
    tl.store(out + at, before + strength * (value - before), mask=inside)


@triton.jit
def _map_kernel(
    x,
    gain,
    offset,
    out,
    num_pixels,
    frames,
    batch_stride,
    channel_stride,
    frame_stride,
    pixel_stride,
    strength,
    SPACE: tl.constexpr,
    BACK: tl.constexpr,
    LINE: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Map one tile of a frame."""
    frame = tl.program_id(1).to(tl.int64)
    pixel = (tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)).to(tl.int64)
    inside = pixel < num_pixels
    start = frame // frames * batch_stride + frame % frames * frame_stride
    lightness, a, b, red, green, blue = _load_lab(
        x, start + pixel * pixel_stride, channel_stride, inside, SPACE, LINE
    )
    at = frame * 3
    fy = (lightness * tl.load(gain + at) + tl.load(offset + at) + 16) / 116
    fx = fy + (a * tl.load(gain + at + 1) + tl.load(offset + at + 1)) / 500
    fz = fy - (b * tl.load(gain + at + 2) + tl.load(offset + at + 2)) / 200
    r = _xyz_part(fx, LINE[0], LINE[1], LINE[2])
    g = _xyz_part(fy, LINE[0], LINE[1], LINE[2])
    b = _xyz_part(fz, LINE[0], LINE[1], LINE[2])
    plane = frames * num_pixels
    place = frame // frames * 3 * plane + frame % frames * num_pixels + pixel
    _store_pixel(out, place, inside, BACK[0] * r + BACK[1] * g + BACK[2] * b, red, strength)
    _store_pixel(out, place + plane, inside, BACK[3] * r + BACK[4] * g + BACK[5] * b, green, strength)
    _store_pixel(out, place + 2 * plane, inside, BACK[6] * r + BACK[7] * g + BACK[8] * b, blue, strength)


def match_color_on_triton(pixels: Tensor, target: ColorTarget, space: LabSpace) -> Tensor:
    """Give each frame of `[B, 3, F, H, W]`, -1..1, the Lab mean and deviation of a target.

    Returns float32, contiguous, -1..1.
    """
    batch, _, frames, height, width = pixels.shape
    if pixels.stride(3) != width * pixels.stride(4):
        pixels = pixels.contiguous()
    num_pixels = height * width
    parts = triton.cdiv(num_pixels, PIXELS)
    strides = (*pixels.stride()[:3], pixels.stride(4))
    line = (space.cube_threshold, space.slope, space.offset)
    moments = pixels.new_empty((batch, frames, parts, 3, 2), dtype=torch.float32)
    _measure_kernel[(parts, batch * frames)](
        pixels, moments, num_pixels, frames, *strides, SPACE=space.to_xyz, LINE=line, PIXELS=PIXELS
    )
    mean, std = _join_moments(moments, num_pixels)
    gain = torch.where(
        std < target.min_deviation, 1.0, target.std[:, None] / std.clamp_min(target.min_deviation)
    )
    offset = target.mean[:, None] - mean * gain
    out = torch.empty(pixels.shape, dtype=torch.float32, device=pixels.device)
    _map_kernel[(parts, batch * frames)](
        pixels,
        gain.contiguous(),
        offset.contiguous(),
        out,
        num_pixels,
        frames,
        *strides,
        target.strength,
        SPACE=space.to_xyz,
        BACK=space.to_rgb,
        LINE=line,
        PIXELS=PIXELS,
    )
    return out


def _join_moments(moments: Tensor, num_pixels: int) -> tuple[Tensor, Tensor]:
    """Merge the moments of tiles, `[B, F, tiles, 3, 2]`, into mean and deviation of frames, `[B, F, 3]`."""
    means, squares = moments.unbind(-1)
    pieces = torch.arange(means.shape[2], device=means.device) * PIXELS
    counts = (num_pixels - pieces).clamp_max(PIXELS)[:, None].float()
    mean = (means * counts).sum(2) / num_pixels
    # Deviations from local means plus those of the means: a sum of squares would cancel in float32.
    spread = squares + counts * (means - mean[:, :, None]) ** 2
    return mean, (spread.sum(2) / num_pixels).sqrt()
