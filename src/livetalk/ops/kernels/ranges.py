"""Triton kernels that compute the range of every channel over the tokens: minimum, maximum, mean.

Programs read tiles of few channels and many tokens. A program that holds whole tokens in registers, as norms
need them, has no registers left for the ranges of all channels.
"""

# Kernels take every pointer and stride as an untyped argument.
# ruff: noqa: PLR0913
# mypy: disable-error-code="import-not-found,import-untyped,no-untyped-def,untyped-decorator"

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from livetalk.ops.kernels.interface import HeadRange

TOKENS, COLUMNS, TILES, STAGES, WARPS = 16, 128, 8, 3, 2
"""Size of a tile, tiles and pipeline stages per program, and its warps: the fastest on an H100."""

JOINED_PARTS, JOINED_COLUMNS = 64, 32
"""Ranges read at a time, and channels per program: 160 programs for 5,120 channels."""


@triton.jit
def _note_ranges_kernel(
    x,
    bias,
    out,
    ranges,
    num_tokens,
    x_batch_stride,
    x_row_stride,
    out_batch_stride,
    out_row_stride,
    ranges_stride,
    WIDTH: tl.constexpr,
    TOKENS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TILES: tl.constexpr,
    STAGES: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    STORE: tl.constexpr,
):
    """Store the range of some channels over some tokens of a sample, and optionally the rounded tokens."""
    part, sample = tl.program_id(1), tl.program_id(2).to(tl.int64)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    added = tl.zeros((COLUMNS,), tl.float32)
    if HAS_BIAS:
        added += tl.load(bias + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    lowest = tl.full((TOKENS, COLUMNS), float("inf"), tl.float32)
    highest = tl.full((TOKENS, COLUMNS), float("-inf"), tl.float32)
    summed = tl.zeros((TOKENS, COLUMNS), tl.float32)
    for tile in tl.range(TILES, num_stages=STAGES):
        token = (part * TILES + tile) * TOKENS + tl.arange(0, TOKENS)
        inside = (token < num_tokens)[:, None] & (column < WIDTH)[None, :]
        row = token.to(tl.int64)[:, None]
        y = tl.load(
            x + sample * x_batch_stride + row * x_row_stride + column[None, :], mask=inside, other=0.0
        )
        # Rounded before the range is taken, because quantisation reads the stored values.
        rounded = (y.to(tl.float32) + added[None, :]).to(out.dtype.element_ty)
        if STORE:
            at = sample * out_batch_stride + row * out_row_stride + column[None, :]
            tl.store(out + at, rounded, mask=inside)
        y = rounded.to(tl.float32)
        lowest = tl.minimum(lowest, tl.where(inside, y, float("inf")))
        highest = tl.maximum(highest, tl.where(inside, y, float("-inf")))
        summed += tl.where(inside, y, 0.0)
    noted = ranges + (sample * tl.num_programs(1) + part) * 3 * ranges_stride + column
    tl.store(noted, tl.min(lowest, 0), mask=column < WIDTH)
    tl.store(noted + ranges_stride, tl.max(highest, 0), mask=column < WIDTH)
    tl.store(noted + 2 * ranges_stride, tl.sum(summed, 0), mask=column < WIDTH)


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
    """Merge the ranges of parts of a sample's tokens for some channels."""
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


def find_range_on_triton(
    parts: Sequence[Tensor], num_heads: int, bias: Tensor | None = None, out: Sequence[Tensor] | None = None
) -> HeadRange:
    """Compute the range of tokens, and optionally store them.

    `parts` are the channels in order, each `[B, L, D / P]` with contiguous channels. With `out`, tensors of
    the same shapes, the tokens are stored there after `bias` `[D]` is added.
    """
    batch, num_tokens, width = parts[0].shape
    num_parts, total = triton.cdiv(num_tokens, TOKENS * TILES), width * len(parts)
    ranges = parts[0].new_empty((batch, num_parts, 3, total), dtype=torch.float32)
    for index, x in enumerate(parts):
        own = slice(index * width, (index + 1) * width)
        target = x if out is None else out[index]
        _note_ranges_kernel[(triton.cdiv(width, COLUMNS), num_parts, batch)](
            x,
            x if bias is None else bias[own],
            target,
            ranges[..., own],
            num_tokens,
            *x.stride()[:2],
            *target.stride()[:2],
            total,
            WIDTH=width,
            TOKENS=TOKENS,
            COLUMNS=COLUMNS,
            TILES=TILES,
            STAGES=STAGES,
            HAS_BIAS=bias is not None,
            STORE=out is not None,
            num_warps=WARPS,
        )
    by_head = ranges.view(batch, num_parts, 3, num_heads, -1)
    return _join(by_head, ranges.stride()[:2], (batch, num_parts), num_tokens)


def join_ranges_on_triton(bounds: Tensor) -> HeadRange:
    """Compute `FusedKernels.join_ranges`."""
    bounds = bounds.contiguous()
    ranks, batch = bounds.shape[:2]
    return _join(bounds, (bounds.stride(1), bounds.stride(0)), (batch, ranks), 1)


def _join(ranges: Tensor, strides: tuple[int, ...], sizes: tuple[int, int], divisor: int) -> HeadRange:
    """Merge ranges `[..., 3, N, E]`; `strides` and `sizes` are those of samples and parts."""
    batch, num_parts = sizes
    num_heads, head = ranges.shape[-2:]
    width = num_heads * head
    joined = ranges.new_empty((batch, 3, num_heads, head))
    _join_ranges_kernel[(triton.cdiv(width, JOINED_COLUMNS), batch)](
        ranges,
        joined,
        *strides,
        divisor,
        NUM_PARTS=num_parts,
        WIDTH=width,
        BLOCK=JOINED_COLUMNS,
        PARTS=min(JOINED_PARTS, triton.next_power_of_2(num_parts)),
        num_warps=8 if num_parts > JOINED_COLUMNS else 1,
    )
    return HeadRange(joined)
