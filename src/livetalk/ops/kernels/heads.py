"""Triton kernels between a projection and attention: bias, norm, rotation, layout, rounding to one byte."""

# A kernel is handed every pointer and stride by itself, untyped.
# ruff: noqa: PLR0913
# mypy: disable-error-code="import-not-found,import-untyped,no-untyped-def,untyped-decorator"

from typing import cast

import torch
import triton
import triton.language as tl
from torch import Tensor

from livetalk.ops.attention_float8 import QuantizedHeads
from livetalk.ops.kernels.interface import HeadNorm, HeadRange
from livetalk.ops.kernels.reference import head_scale
from livetalk.ops.low_precision import FLOAT8
from livetalk.ops.rope import RopeTables

ROWS = 16
"""Tokens of one program: enough that the ranges it writes are few beside the tokens."""

WIDE = 4096
"""Tokens wider than this get 16 warps, others 8."""


@triton.jit
def _split_heads_kernel(
    x,
    bias,
    weight,
    cos,
    sin,
    out,
    ranges,
    num_tokens,
    x_batch_stride,
    x_row_stride,
    out_group_stride,
    out_batch_stride,
    out_row_stride,
    eps,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    PAIRS: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    NORM: tl.constexpr,
    ROPE: tl.constexpr,
    STORE: tl.constexpr,
    MEASURE: tl.constexpr,
):
    """Take some tokens of a sample to their heads, and note the range of every channel over them."""
    part = tl.program_id(0)
    sample = tl.program_id(1).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    pair = tl.arange(0, BLOCK // 2)
    target = (column // GROUP).to(tl.int64) * out_group_stride + column % GROUP
    lowest = tl.full((BLOCK,), float("inf"), tl.float32)
    highest = tl.full((BLOCK,), float("-inf"), tl.float32)
    summed = tl.zeros((BLOCK,), tl.float32)
    for step in range(ROWS):
        token = part * ROWS + step
        # The last program of a sample has less to do.
        here = column < tl.where(token < num_tokens, WIDTH, 0)
        y = tl.load(
            x + sample * x_batch_stride + token.to(tl.int64) * x_row_stride + column, mask=here, other=0.0
        )
        y = y.to(tl.float32)
        if HAS_BIAS:
            y += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
        if NORM:
            y *= tl.rsqrt(tl.sum(y * y, 0) / WIDTH + eps)
            y *= tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
        if ROPE:
            angle = token * PAIRS + pair % PAIRS
            turned = pair < tl.where(token < num_tokens, WIDTH // 2, 0)
            c = tl.load(cos + angle, mask=turned, other=0.0)
            s = tl.load(sin + angle, mask=turned, other=0.0)
            even, odd = tl.split(tl.reshape(y, (BLOCK // 2, 2)))
            y = tl.reshape(tl.join(even * c - odd * s, even * s + odd * c), (BLOCK,))
        rounded = y.to(out.dtype.element_ty)
        if STORE:
            at = target + sample * out_batch_stride + token.to(tl.int64) * out_row_stride
            tl.store(out + at, rounded, mask=here)
        if MEASURE:
            y = rounded.to(tl.float32)
            lowest = tl.minimum(lowest, tl.where(here, y, float("inf")))
            highest = tl.maximum(highest, tl.where(here, y, float("-inf")))
            summed += tl.where(here, y, 0.0)
    if MEASURE:
        noted = ranges + (sample * tl.num_programs(0) + part) * 3 * WIDTH + column
        tl.store(noted, lowest, mask=inside)
        tl.store(noted + WIDTH, highest, mask=inside)
        tl.store(noted + 2 * WIDTH, summed, mask=inside)


@triton.jit
def _quantize_heads_kernel(
    x,
    scale,
    mean,
    out,
    num_tokens,
    x_batch_stride,
    x_row_stride,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    HEAD: tl.constexpr,
    CENTRE: tl.constexpr,
):
    """Round one token's heads to e4m3."""
    row = tl.program_id(0).to(tl.int64)
    sample = row // num_tokens
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    start = sample * x_batch_stride + row % num_tokens * x_row_stride
    y = tl.load(x + start + column, mask=inside, other=0.0).to(tl.float32)
    if CENTRE:
        y -= tl.load(mean + sample * WIDTH + column, mask=inside, other=0.0)
    s = tl.load(scale + sample * (WIDTH // HEAD) + column // HEAD, mask=inside, other=1.0)
    y = tl.clamp(tl.div_rn(y, s), -448.0, 448.0)
    tl.store(out + row * WIDTH + column, y.to(out.dtype.element_ty), mask=inside)


def split_heads_on_triton(
    x: Tensor,
    bias: Tensor | None,
    norm: HeadNorm | None,
    rope: RopeTables | None,
    heads: tuple[int, int],
    *,
    measure: bool,
    out: Tensor | None = None,
) -> tuple[Tensor, HeadRange | None]:
    """Compute `FusedKernels.split_heads`; see there.

    Raises:
        ValueError: `out` has another shape, or the heads of a group are not side by side.
    """
    batch, num_tokens, width = x.shape
    num_heads, groups = heads
    shape = (groups, batch, num_tokens, num_heads // groups, width // num_heads)
    if out is None:
        out = x.new_empty(shape)
    if out.shape != shape or out.stride()[3:] != (shape[4], 1):
        raise ValueError(f"out {[*out.shape]} is not {[*shape]} with heads side by side")
    return out, _split(x, bias, norm, rope, num_heads, out, measure=measure)


def measure_heads_on_triton(x: Tensor) -> HeadRange:
    """Compute `FusedKernels.measure_heads`; see there."""
    spread = _split(x.flatten(2), None, None, None, x.shape[2], None, measure=True)
    return cast(HeadRange, spread)


def _split(
    x: Tensor,
    bias: Tensor | None,
    norm: HeadNorm | None,
    rope: RopeTables | None,
    num_heads: int,
    out: Tensor | None,
    *,
    measure: bool,
) -> HeadRange | None:
    """Take `x`, `[B, L, D]`, to `out`, `[P, B, L, N / P, E]`, and measure what is taken there."""
    batch, num_tokens, width = x.shape
    x = x if x.stride(-1) == 1 else x.contiguous()
    # Whoever measures writes once for many tokens; whoever does not starts more programs.
    rows = ROWS if measure else 1
    parts = triton.cdiv(num_tokens, rows)
    ranges = x.new_empty((batch, parts * measure, 3, num_heads, width // num_heads), dtype=torch.float32)
    _split_heads_kernel[(parts, batch)](
        x,
        x if bias is None else bias,
        x if norm is None else norm.weight,
        x if rope is None else rope.cos.contiguous(),
        x if rope is None else rope.sin.contiguous(),
        x if out is None else out,
        ranges,
        num_tokens,
        x.stride(0),
        x.stride(1),
        *((0, 0, 0) if out is None else out.stride()[:3]),
        0.0 if norm is None else norm.eps,
        WIDTH=width,
        BLOCK=triton.next_power_of_2(width),
        PAIRS=width // num_heads // 2,
        GROUP=width if out is None else out.shape[3] * out.shape[4],
        ROWS=rows,
        HAS_BIAS=bias is not None,
        NORM=norm is not None,
        ROPE=rope is not None,
        STORE=out is not None,
        MEASURE=measure,
        num_warps=16 if width > WIDE else 8,
    )
    if not measure:
        return None
    lowest, highest, summed = ranges.unbind(2)
    return HeadRange(lowest.amin(1), highest.amax(1), summed.sum(1) / num_tokens)


def quantize_heads_on_triton(x: Tensor, spread: HeadRange, *, centre: bool) -> QuantizedHeads:
    """Compute `FusedKernels.quantize_heads`; see there."""
    batch, num_tokens, num_heads, head = x.shape
    mean, scale = head_scale(spread, centre=centre)
    rows = x.flatten(2)
    rows = rows if rows.stride(-1) == 1 else rows.contiguous()
    out = torch.empty(x.shape, dtype=FLOAT8, device=x.device)
    width = num_heads * head
    _quantize_heads_kernel[(batch * num_tokens,)](
        rows,
        scale,
        scale if mean is None else mean.contiguous(),
        out,
        num_tokens,
        rows.stride(0),
        rows.stride(1),
        WIDTH=width,
        BLOCK=triton.next_power_of_2(width),
        HEAD=head,
        CENTRE=centre,
        num_warps=8,
    )
    return QuantizedHeads(out, scale)
