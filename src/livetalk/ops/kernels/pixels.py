"""Triton kernel over pixels whose channels lie side by side: norm, scale, SiLU."""

# A kernel is handed every pointer and stride by itself, untyped.
# ruff: noqa: PLR0913
# mypy: disable-error-code="import-not-found,import-untyped,no-untyped-def,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

VALUES = 4096
"""Numbers of one program: a pixel alone has too few to keep the memory busy."""


@triton.jit
def _channel_norm_kernel(
    x,
    weight,
    out,
    num_pixels,
    x_batch_stride,
    out_batch_stride,
    root,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    PIXELS: tl.constexpr,
    SILU: tl.constexpr,
):
    """Normalise, scale and activate some pixels of a sample."""
    sample = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.arange(0, BLOCK)
    at = pixel[:, None] * CHANNELS + channel[None, :]
    inside = (pixel < num_pixels)[:, None] & (channel < CHANNELS)[None, :]
    y = tl.load(x + sample * x_batch_stride + at, mask=inside, other=0.0).to(tl.float32)
    norm = tl.maximum(tl.sqrt_rn(tl.sum(y * y, 1)), 1e-12)
    y = y * tl.div_rn(root, norm)[:, None]
    y = y * tl.load(weight + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)[None, :]
    if SILU:
        y = y * tl.sigmoid(y)
    tl.store(out + sample * out_batch_stride + at, y.to(out.dtype.element_ty), mask=inside)


def channel_norm_on_triton(x: Tensor, weight: Tensor, *, silu: bool, out: Tensor | None = None) -> Tensor:
    """Compute `FusedKernels.channel_norm`; see there.

    Raises:
        ValueError: `out` does not have the shape of `x`, or a sample of it is not one piece of memory with
            its channels last.
    """
    x = x.contiguous(memory_format=torch.channels_last_3d)
    if out is None:
        out = torch.empty_like(x, memory_format=torch.channels_last_3d)
    if out.shape != x.shape or not out[0].permute(1, 2, 3, 0).is_contiguous():
        raise ValueError(f"out {[*out.shape]} is not {[*x.shape]}, channels last")
    channels, num_pixels = x.shape[1], x[0, 0].numel()
    block = triton.next_power_of_2(channels)
    pixels = max(1, VALUES // block)
    _channel_norm_kernel[(triton.cdiv(num_pixels, pixels), x.shape[0])](
        x,
        weight,
        out,
        num_pixels,
        x.stride(0),
        out.stride(0),
        channels**0.5,
        CHANNELS=channels,
        BLOCK=block,
        PIXELS=pixels,
        SILU=silu,
        num_warps=8,
    )
    return out
