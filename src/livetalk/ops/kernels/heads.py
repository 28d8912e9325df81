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
from livetalk.ops.low_precision import FLOAT8
from livetalk.ops.rope import RopeTables

ROWS, LEAST_PROGRAMS = 64, 160
"""Tokens of a program that measures: many, so that the ranges it writes are few beside the tokens, but fewer
where the device would not be full."""

PARTS = 64
COLUMNS = 32
"""Ranges that a program reads at a time, and the channels that it joins: 160 programs for 5,120 channels."""

SPLIT_WARPS, ROUND_WARPS = 4, 4
"""Of a program that takes tokens to their heads, and of one that rounds them: the fastest on an H100."""


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
def _join_ranges_kernel(
    ranges,
    joined,
    sample_stride,
    part_stride,
    divisor,
    NUM_PARTS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Join ranges of parts of a sample's tokens, for some channels: lowest, highest, mean."""
    sample = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, :]
    lowest = tl.full((PARTS, BLOCK), float("inf"), tl.float32)
    highest = tl.full((PARTS, BLOCK), float("-inf"), tl.float32)
    summed = tl.zeros((PARTS, BLOCK), tl.float32)
    for first in range(0, NUM_PARTS, PARTS):
        part = first + tl.arange(0, PARTS)[:, None]
        inside = (part < NUM_PARTS) & (column < WIDTH)
        noted = ranges + sample * sample_stride + part * part_stride + column
        lowest = tl.minimum(lowest, tl.load(noted, mask=inside, other=float("inf")))
        highest = tl.maximum(highest, tl.load(noted + WIDTH, mask=inside, other=float("-inf")))
        summed += tl.load(noted + 2 * WIDTH, mask=inside, other=0.0)
    at = joined + sample * 3 * WIDTH + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    kept = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK) < WIDTH
    tl.store(at, tl.min(lowest, 0), mask=kept)
    tl.store(at + WIDTH, tl.max(highest, 0), mask=kept)
    tl.store(at + 2 * WIDTH, tl.sum(summed, 0) / divisor, mask=kept)


@triton.jit
def _head_scale_kernel(
    bounds,
    scale,
    inverse,
    HEAD: tl.constexpr,
    BLOCK: tl.constexpr,
    CENTRE: tl.constexpr,
):
    """Find what one head is divided by: its largest number over that of e4m3."""
    head, sample = tl.program_id(0), tl.program_id(1).to(tl.int64)
    width = tl.num_programs(0) * HEAD
    channel = tl.arange(0, BLOCK)
    at = sample * 3 * width + head * HEAD + channel
    low = tl.load(bounds + at, mask=channel < HEAD, other=0.0)
    high = tl.load(bounds + at + width, mask=channel < HEAD, other=0.0)
    if CENTRE:
        centre = tl.load(bounds + at + 2 * width, mask=channel < HEAD, other=0.0)
        low, high = low - centre, high - centre
    peak = tl.max(tl.maximum(high, -low), 0)
    divisor = tl.maximum(tl.div_rn(peak, 448.0), 1e-12)
    at = sample * tl.num_programs(0) + head
    tl.store(scale + at, divisor)
    tl.store(inverse + at, tl.div_rn(1.0, divisor))


@triton.jit
def _quantize_heads_kernel(
    x,
    inverse,
    bounds,
    out,
    num_tokens,
    x_batch_stride,
    x_row_stride,
    out_group_stride,
    out_batch_stride,
    out_row_stride,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    HEAD: tl.constexpr,
    GROUP: tl.constexpr,
    CENTRE: tl.constexpr,
):
    """Round one token's heads to e4m3."""
    row = tl.program_id(0).to(tl.int64)
    sample, token = row // num_tokens, row % num_tokens
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    start = sample * x_batch_stride + token * x_row_stride
    y = tl.load(x + start + column, mask=inside, other=0.0).to(tl.float32)
    if CENTRE:
        y -= tl.load(bounds + (sample * 3 + 2) * WIDTH + column, mask=inside, other=0.0)
    y *= tl.load(inverse + sample * (WIDTH // HEAD) + column // HEAD, mask=inside, other=1.0)
    y = tl.clamp(y, -448.0, 448.0)
    at = (column // GROUP).to(tl.int64) * out_group_stride + column % GROUP
    at += sample * out_batch_stride + token * out_row_stride
    tl.store(out + at, y.to(out.dtype.element_ty), mask=inside)


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
    _check_groups(out, shape)
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
    rows = _rows_of_a_program(num_tokens) if measure else 1
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
        num_warps=SPLIT_WARPS,
    )
    return _join_ranges(ranges, num_tokens) if measure else None


def _rows_of_a_program(num_tokens: int) -> int:
    rows = ROWS
    while rows > 1 and num_tokens < rows * LEAST_PROGRAMS:
        rows //= 2
    return rows


def _join_ranges(ranges: Tensor, num_tokens: int) -> HeadRange:
    """Join `[B, parts, 3, N, E]` over the parts: lowest, highest, sum."""
    return _join(ranges, ranges.stride()[:2], ranges.shape[:2], num_tokens)


def join_ranges_on_triton(bounds: Tensor) -> HeadRange:
    """Compute `FusedKernels.join_ranges`; see there."""
    bounds = bounds.contiguous()
    ranks, batch = bounds.shape[:2]
    return _join(bounds, (bounds.stride(1), bounds.stride(0)), (batch, ranks), 1)


def _join(ranges: Tensor, strides: tuple[int, ...], sizes: tuple[int, ...], divisor: int) -> HeadRange:
    """Join ranges `[..., 3, N, E]`; `strides` and `sizes` are those of samples and of parts."""
    batch, num_parts = sizes
    num_heads, head = ranges.shape[-2:]
    width = num_heads * head
    joined = ranges.new_empty((batch, 3, num_heads, head))
    _join_ranges_kernel[(triton.cdiv(width, COLUMNS), batch)](
        ranges,
        joined,
        *strides,
        divisor,
        NUM_PARTS=num_parts,
        WIDTH=width,
        BLOCK=COLUMNS,
        PARTS=min(PARTS, triton.next_power_of_2(num_parts)),
        num_warps=8 if num_parts > COLUMNS else 1,
    )
    return HeadRange(joined)


def quantize_heads_on_triton(
    x: Tensor, spread: HeadRange, *, centre: bool, out: Tensor | None = None
) -> QuantizedHeads:
    """Compute `FusedKernels.quantize_heads`; see there.

    Raises:
        ValueError: `out` has another shape, or the heads of a group are not side by side.
    """
    batch, num_tokens, num_heads, head = x.shape
    scale, inverse = spread.bounds.new_empty((2, batch, num_heads))
    _head_scale_kernel[(num_heads, batch)](
        spread.bounds,
        scale,
        inverse,
        HEAD=head,
        BLOCK=triton.next_power_of_2(head),
        CENTRE=centre,
        num_warps=1,
    )
    rows = x.flatten(2)
    rows = rows if rows.stride(-1) == 1 else rows.contiguous()
    levels = torch.empty(x.shape, dtype=FLOAT8, device=x.device) if out is None else out
    by_group = levels[None] if out is None else levels
    groups = by_group.shape[0]
    _check_groups(by_group, (groups, batch, num_tokens, num_heads // groups, head))
    width = num_heads * head
    _quantize_heads_kernel[(batch * num_tokens,)](
        rows,
        inverse,
        spread.bounds,
        by_group,
        num_tokens,
        rows.stride(0),
        rows.stride(1),
        *by_group.stride()[:3],
        WIDTH=width,
        BLOCK=triton.next_power_of_2(width),
        HEAD=head,
        GROUP=width // groups,
        CENTRE=centre,
        num_warps=ROUND_WARPS,
    )
    return QuantizedHeads(levels, scale)


def _check_groups(out: Tensor, shape: tuple[int, ...]) -> None:
    if out.shape != shape or out.stride()[3:] != (shape[4], 1):
        raise ValueError(f"out {[*out.shape]} is not {[*shape]} with heads side by side")
