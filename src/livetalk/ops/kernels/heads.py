"""Triton kernels between a projection and attention: bias, norm, rotation, layout, FP8 quantisation."""

# Kernels take every pointer and stride as an untyped argument, and extend tuples of parts by concatenation.
# ruff: noqa: PLR0913, RUF005
# mypy: disable-error-code="assignment,import-not-found,import-untyped,no-untyped-def,untyped-decorator"

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from livetalk.ops.attention_float8 import QuantizedHeads
from livetalk.ops.kernels.interface import HeadNorm, HeadRange
from livetalk.ops.kernels.parts import split_width
from livetalk.ops.kernels.ranges import find_range_on_triton
from livetalk.ops.low_precision import FLOAT8
from livetalk.ops.rope import RopeTables

SPLIT_WARPS, ROUND_WARPS = 4, 4
"""Warps of the programs that split and that quantise heads: the fastest on an H100."""


@triton.jit
def _store_groups(out, at, column, inside, y, GROUP: tl.constexpr):
    """Store part of a token, each group of heads to its own tensor."""
    for group in tl.static_range(len(out)):
        own = inside & (column >= group * GROUP) & (column < (group + 1) * GROUP)
        tl.store(out[group] + at + (column - group * GROUP), y, mask=own)


@triton.jit
def _rotate(y, cos, sin, PAIRS: tl.constexpr):
    """Rotate interleaved pairs."""
    even, odd = tl.split(tl.reshape(y, (PAIRS, 2)))
    return tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), (2 * PAIRS,))


@triton.jit
def _split_heads_kernel(
    x,
    bias,
    weight,
    cos,
    sin,
    out,
    x_batch_stride,
    x_row_stride,
    out_batch_stride,
    out_row_stride,
    eps,
    WIDTH: tl.constexpr,
    PARTS: tl.constexpr,
    PAIRS: tl.constexpr,
    GROUP: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    NORM: tl.constexpr,
    ROPE: tl.constexpr,
):
    """Add a bias to one token, normalise, rotate and store it."""
    token, sample = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    start = sample * x_batch_stride + token * x_row_stride
    at = sample * out_batch_stride + token * out_row_stride
    square = 0.0
    ys = ()
    for part in tl.static_range(len(PARTS)):
        column = PARTS[part][0] + tl.arange(0, PARTS[part][1])
        y = tl.load(x + start + column, mask=column < WIDTH, other=0.0).to(tl.float32)
        if HAS_BIAS:
            y += tl.load(bias + column, mask=column < WIDTH, other=0.0).to(tl.float32)
        square += tl.sum(y * y, 0) / WIDTH
        ys = ys + (y,)
    for part in tl.static_range(len(PARTS)):
        column = PARTS[part][0] + tl.arange(0, PARTS[part][1])
        y = ys[part]
        if NORM:
            y *= tl.rsqrt(square + eps)
            y *= tl.load(weight + column, mask=column < WIDTH, other=0.0).to(tl.float32)
        if ROPE:
            pair = PARTS[part][0] // 2 + tl.arange(0, PARTS[part][1] // 2)
            angle = token * PAIRS + pair % PAIRS
            c = tl.load(cos + angle, mask=pair < WIDTH // 2, other=0.0)
            s = tl.load(sin + angle, mask=pair < WIDTH // 2, other=0.0)
            y = _rotate(y, c, s, PARTS[part][1] // 2)
        _store_groups(out, at, column, column < WIDTH, y.to(out[0].dtype.element_ty), GROUP)


@triton.jit
def _head_scale_kernel(
    bounds,
    scale,
    inverse,
    HEAD: tl.constexpr,
    BLOCK: tl.constexpr,
    CENTRE: tl.constexpr,
):
    """Compute the scale of one head: its largest magnitude over that of e4m3."""
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
    # `FLOAT8_MAX` and `MIN_SCALE`: a kernel cannot read Python globals. `div_rn` rounds as PyTorch does; the
    # default division of Triton does not.
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
    out_batch_stride,
    out_row_stride,
    WIDTH: tl.constexpr,
    PARTS: tl.constexpr,
    HEAD: tl.constexpr,
    GROUP: tl.constexpr,
    CENTRE: tl.constexpr,
):
    """Quantise one token's heads to e4m3."""
    row = tl.program_id(0).to(tl.int64)
    sample, token = row // num_tokens, row % num_tokens
    start = sample * x_batch_stride + token * x_row_stride
    at = sample * out_batch_stride + token * out_row_stride
    for part in tl.static_range(len(PARTS)):
        column = PARTS[part][0] + tl.arange(0, PARTS[part][1])
        inside = column < WIDTH
        y = tl.load(x + start + column, mask=inside, other=0.0).to(tl.float32)
        if CENTRE:
            y -= tl.load(bounds + (sample * 3 + 2) * WIDTH + column, mask=inside, other=0.0)
        y *= tl.load(inverse + sample * (WIDTH // HEAD) + column // HEAD, mask=inside, other=1.0)
        y = tl.clamp(y, -448.0, 448.0)
        _store_groups(out, at, column, inside, y.to(out[0].dtype.element_ty), GROUP)


def split_heads_on_triton(
    x: Tensor,
    bias: Tensor | None,
    norm: HeadNorm | None,
    rope: RopeTables | None,
    heads: tuple[int, int],
    *,
    measure: bool = False,
    out: Sequence[Tensor] | None = None,
) -> tuple[Sequence[Tensor], HeadRange | None]:
    """Compute `FusedKernels.split_heads`; `ValueError` if `out` has other shapes or strides."""
    batch, num_tokens, width = x.shape
    num_heads, groups = heads
    shape = (batch, num_tokens, num_heads // groups, width // num_heads)
    if out is None:
        out = x.new_empty((groups, *shape)).unbind(0)
    _check_groups(out, groups, shape)
    x = x if x.stride(-1) == 1 else x.contiguous()
    flat = [group.flatten(2) for group in out]
    # Values: one kernel adds the bias, stores and measures.
    if measure and norm is None and rope is None:
        return out, find_range_on_triton(x.chunk(groups, -1), num_heads, bias, flat)
    _split_heads_kernel[(num_tokens, batch)](
        x,
        x if bias is None else bias,
        x if norm is None else norm.weight,
        x if rope is None else rope.cos.contiguous(),
        x if rope is None else rope.sin.contiguous(),
        tuple(out),
        x.stride(0),
        x.stride(1),
        *out[0].stride()[:2],
        0.0 if norm is None else norm.eps,
        WIDTH=width,
        PARTS=split_width(width),
        PAIRS=width // num_heads // 2,
        GROUP=width // groups,
        HAS_BIAS=bias is not None,
        NORM=norm is not None,
        ROPE=rope is not None,
        num_warps=SPLIT_WARPS,
    )
    return out, find_range_on_triton(flat, num_heads) if measure else None


def measure_heads_on_triton(x: Tensor) -> HeadRange:
    """Compute `FusedKernels.measure_heads`."""
    rows = x.flatten(2)
    return find_range_on_triton([rows if rows.stride(-1) == 1 else rows.contiguous()], x.shape[2])


def quantize_heads_on_triton(x: Tensor, head_range: HeadRange, *, centre: bool) -> QuantizedHeads:
    """Compute `FusedKernels.quantize_heads`."""
    levels = torch.empty(x.shape, dtype=FLOAT8, device=x.device)
    return QuantizedHeads(levels, quantize_heads_into_on_triton(x, head_range, (levels,), centre=centre))


def quantize_heads_into_on_triton(
    x: Tensor, head_range: HeadRange, out: Sequence[Tensor], *, centre: bool
) -> Tensor:
    """Compute `FusedKernels.quantize_heads_into`; `ValueError` if `out` has other shapes or strides."""
    batch, num_tokens, num_heads, head = x.shape
    groups, width = len(out), num_heads * head
    _check_groups(out, groups, (batch, num_tokens, num_heads // groups, head))
    scale, inverse = head_range.bounds.new_empty((2, batch, num_heads)).unbind(0)
    _head_scale_kernel[(num_heads, batch)](
        head_range.bounds,
        scale,
        inverse,
        HEAD=head,
        BLOCK=triton.next_power_of_2(head),
        CENTRE=centre,
        num_warps=1,
    )
    rows = x.flatten(2)
    rows = rows if rows.stride(-1) == 1 else rows.contiguous()
    _quantize_heads_kernel[(batch * num_tokens,)](
        rows,
        inverse,
        head_range.bounds,
        tuple(out),
        num_tokens,
        rows.stride(0),
        rows.stride(1),
        *out[0].stride()[:2],
        WIDTH=width,
        PARTS=split_width(width),
        HEAD=head,
        GROUP=width // groups,
        CENTRE=centre,
        num_warps=ROUND_WARPS,
    )
    return scale


def _check_groups(out: Sequence[Tensor], groups: int, shape: tuple[int, ...]) -> None:
    strides = (*out[0].stride()[:2], shape[-1], 1)
    if len(out) != groups or any(x.shape != shape or x.stride() != strides for x in out):
        found = [[*x.shape] for x in out]
        raise ValueError(f"out {found} is not {groups} x {[*shape]} with contiguous heads and equal strides")
