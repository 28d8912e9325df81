"""Triton kernels over pixels with contiguous channels: the operations between the VAE's convolutions."""

# Kernels take every pointer and stride as an untyped argument.
# ruff: noqa: PLR0913
# mypy: disable-error-code="import-not-found,import-untyped,no-untyped-def,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

VALUES = 4096
"""Values per program; a single pixel has too few to saturate memory bandwidth."""


@triton.jit
def _channel_norm_kernel(
    x,
    bias,
    weight,
    out,
    num_pixels,
    x_batch_stride,
    x_pixel_stride,
    out_batch_stride,
    root,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    PIXELS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SILU: tl.constexpr,
):
    """Add a bias to pixels of a sample, normalise, scale and activate them."""
    sample = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.arange(0, BLOCK)
    # Offsets are 64-bit, because decoded frames can have more than 2^31 values.
    at = pixel[:, None] * CHANNELS + channel[None, :]
    inside = (pixel < num_pixels)[:, None] & (channel < CHANNELS)[None, :]
    source = x + sample * x_batch_stride + pixel[:, None] * x_pixel_stride + channel[None, :]
    y = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        y += tl.load(bias + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)[None, :]
    norm = tl.maximum(tl.sqrt_rn(tl.sum(y * y, 1)), 1e-12)
    y = y * tl.div_rn(root, norm)[:, None]
    y = y * tl.load(weight + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)[None, :]
    if SILU:
        y = y * tl.sigmoid(y)
    tl.store(out + sample * out_batch_stride + at, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _add_channels_kernel(
    x,
    bias,
    skip,
    out,
    num_pixels,
    x_batch_stride,
    x_pixel_stride,
    out_batch_stride,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Add a bias and a shortcut to pixels of a sample."""
    sample = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.arange(0, BLOCK)
    at = sample * out_batch_stride + pixel[:, None] * CHANNELS + channel[None, :]
    inside = (pixel < num_pixels)[:, None] & (channel < CHANNELS)[None, :]
    source = x + sample * x_batch_stride + pixel[:, None] * x_pixel_stride + channel[None, :]
    y = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    y += tl.load(bias + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)[None, :]
    y += tl.load(skip + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _join_phases_kernel(
    phases,
    bias,
    out,
    height,
    width,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Store pixels of one row of an upsampled frame."""
    line = tl.program_id(1).to(tl.int64)
    picture, row = line // (2 * height), line % (2 * height)
    column = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.arange(0, BLOCK)
    inside = (column < 2 * width)[:, None] & (channel < CHANNELS)[None, :]
    # A pixel's window starts half a pixel further where its own row or column is odd.
    window = (picture * (height + 1) + row // 2 + row % 2) * (width + 1) + column // 2 + column % 2
    start = window * 4 * CHANNELS + (row % 2 * 2 + column % 2) * CHANNELS
    y = tl.load(phases + start[:, None] + channel[None, :], mask=inside, other=0.0).to(tl.float32)
    y += tl.load(bias + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)[None, :]
    at = (line * 2 * width + column)[:, None] * CHANNELS + channel[None, :]
    tl.store(out + at, y.to(out.dtype.element_ty), mask=inside)


# Excluded from compilation, because the layers around may be compiled.
@torch.compiler.disable
def channel_norm_on_triton(
    x: Tensor, weight: Tensor, *, silu: bool, bias: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """Compute `FusedKernels.channel_norm`; `ValueError` if `out` has another shape or layout."""
    x = _with_even_pixels(x)
    if out is None:
        out = torch.empty_like(x, memory_format=torch.channels_last_3d)
    if out.shape != x.shape or not out[0].permute(1, 2, 3, 0).is_contiguous():
        raise ValueError(f"out {[*out.shape]} is not {[*x.shape]}, channels last")
    num_pixels, sizes = x[0, 0].numel(), _sizes(x.shape[1])
    _channel_norm_kernel[(triton.cdiv(num_pixels, sizes["PIXELS"]), x.shape[0])](
        x,
        x if bias is None else bias,
        weight,
        out,
        num_pixels,
        x.stride(0),
        x.stride(4),
        out.stride(0),
        x.shape[1] ** 0.5,
        **sizes,
        HAS_BIAS=bias is not None,
        SILU=silu,
        num_warps=8,
    )
    return out


@torch.compiler.disable
def add_channels_on_triton(x: Tensor, bias: Tensor, skip: Tensor) -> Tensor:
    """Compute `FusedKernels.add_channels`."""
    x = _with_even_pixels(x)
    # The convolution's output may be overwritten if it has no padded channels.
    in_place = x.is_contiguous(memory_format=torch.channels_last_3d)
    out = x if in_place else torch.empty_like(x, memory_format=torch.channels_last_3d)
    num_pixels, sizes = x[0, 0].numel(), _sizes(x.shape[1])
    _add_channels_kernel[(triton.cdiv(num_pixels, sizes["PIXELS"]), x.shape[0])](
        x,
        bias,
        skip.contiguous(memory_format=torch.channels_last_3d),
        out,
        num_pixels,
        x.stride(0),
        x.stride(4),
        out.stride(0),
        **sizes,
        num_warps=8,
    )
    return out


def _with_even_pixels(x: Tensor) -> Tensor:
    """Return `x`, copied unless its channels are contiguous and its pixels evenly strided."""
    height, width = x.shape[3:]
    step = x.stride(4)
    even = (1, height * width * step, width * step, step)
    return x if x.stride()[1:] == even else x.contiguous(memory_format=torch.channels_last_3d)


@torch.compiler.disable
def join_phases_on_triton(phases: Tensor, bias: Tensor) -> Tensor:
    """Compute `FusedKernels.join_phases`."""
    phases = phases.contiguous(memory_format=torch.channels_last)
    count, channels = phases.shape[0], phases.shape[1] // 4
    height, width = phases.shape[2] - 1, phases.shape[3] - 1
    out = torch.empty(
        (count, channels, 2 * height, 2 * width),
        dtype=phases.dtype,
        device=phases.device,
        memory_format=torch.channels_last,
    )
    sizes = _sizes(channels)
    _join_phases_kernel[(triton.cdiv(2 * width, sizes["PIXELS"]), count * 2 * height)](
        phases, bias, out, height, width, **sizes, num_warps=8
    )
    return out


def _sizes(channels: int) -> dict[str, int]:
    """Return the block sizes of a program."""
    block = triton.next_power_of_2(channels)
    return {"CHANNELS": channels, "BLOCK": block, "PIXELS": max(1, VALUES // block)}
