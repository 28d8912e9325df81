"""Triton kernels over rows of tokens: a program holds one row in registers from load to store.

Rows are loaded with evict-first policy, so that the vectors shared by all rows, more bytes than a row, stay
in the cache.
"""

# Kernels take every pointer and stride as an untyped argument, and extend tuples of parts by concatenation.
# ruff: noqa: PLR0913, RUF005
# mypy: disable-error-code="assignment,import-not-found,import-untyped,no-untyped-def,untyped-decorator"

from collections.abc import Sequence
from typing import cast

import torch
import triton
import triton.language as tl
from torch import Tensor

from livetalk.ops.kernels.interface import Affine, Branch
from livetalk.ops.kernels.parts import Parts, split_width
from livetalk.ops.low_precision import FLOAT8
from livetalk.ops.matmul import QuantizedRows

WIDE_ROW = 8192
WARPS, WIDE_WARPS = 4, 16
"""Warps per row, and per row wider than `WIDE_ROW`: the fastest on an H100."""


@triton.jit
def _load_row(pointers, inside):
    """Load values that only this program reads."""
    return tl.load(pointers, mask=inside, other=0.0, eviction_policy="evict_first").to(tl.float32)


@triton.jit
def _load_shared(pointers, inside):
    """Load a vector that every program reads."""
    return tl.load(pointers, mask=inside, other=0.0, eviction_policy="evict_last").to(tl.float32)


@triton.jit
def _store_row(out, out_scale, row, ys, WIDTH: tl.constexpr, PARTS: tl.constexpr, QUANTIZE: tl.constexpr):
    """Store a row, given in parts, in the dtype of `out`, or in e4m3 with its scale."""
    inverse = 1.0
    if QUANTIZE:
        peak = 0.0
        for part in tl.static_range(len(PARTS)):
            inside = PARTS[part][0] + tl.arange(0, PARTS[part][1]) < WIDTH
            peak = tl.maximum(peak, tl.max(tl.where(inside, tl.abs(ys[part]), 0.0), 0))
        scale = tl.maximum(tl.div_rn(peak, 448.0), 1e-12)
        tl.store(out_scale + row, scale)
        inverse = tl.div_rn(1.0, scale)
    for part in tl.static_range(len(PARTS)):
        column = PARTS[part][0] + tl.arange(0, PARTS[part][1])
        y = ys[part]
        if QUANTIZE:
            y = tl.clamp(y * inverse, -448.0, 448.0)
        tl.store(out + row * WIDTH + column, y.to(out.dtype.element_ty), mask=column < WIDTH)


@triton.jit
def _add_branch(
    x,
    branch,
    branch_bias,
    gate,
    total,
    at,
    column,
    inside,
    HAS_BRANCH: tl.constexpr,
    HAS_BRANCH_BIAS: tl.constexpr,
    HAS_GATE: tl.constexpr,
):
    """Return part of a token with a branch added, and store it if there is a branch."""
    y = _load_row(x + at + column, inside)
    if HAS_BRANCH:
        added = _load_row(branch + at + column, inside)
        if HAS_BRANCH_BIAS:
            added += _load_shared(branch_bias + column, inside)
        if HAS_GATE:
            added *= _load_shared(gate + column, inside)
        # The norm reads the rounded sum, as in the plain twin, where the sum is stored before the norm.
        rounded = (y + added).to(total.dtype.element_ty)
        tl.store(total + at + column, rounded, mask=inside)
        y = rounded.to(tl.float32)
    return y


@triton.jit
def _tokens_kernel(
    x,
    branch,
    branch_bias,
    gate,
    weight,
    bias,
    total,
    out,
    out_scale,
    num_tokens,
    gate_stride,
    affine_stride,
    eps,
    WIDTH: tl.constexpr,
    PARTS: tl.constexpr,
    HAS_BRANCH: tl.constexpr,
    HAS_BRANCH_BIAS: tl.constexpr,
    HAS_GATE: tl.constexpr,
    NORM: tl.constexpr,
    QUANTIZE: tl.constexpr,
):
    """Add a branch to a token, store the sum, normalise and map it, store the result."""
    row = tl.program_id(0).to(tl.int64)
    sample = row // num_tokens
    own_gate = gate + sample * gate_stride
    mean = 0.0
    ys = ()
    for part in tl.static_range(len(PARTS)):
        column = PARTS[part][0] + tl.arange(0, PARTS[part][1])
        y = _add_branch(
            x,
            branch,
            branch_bias,
            own_gate,
            total,
            row * WIDTH,
            column,
            column < WIDTH,
            HAS_BRANCH,
            HAS_BRANCH_BIAS,
            HAS_GATE,
        )
        mean += tl.sum(y, 0) / WIDTH
        ys = ys + (y,)
    if NORM:
        variance = 0.0
        for part in tl.static_range(len(PARTS)):
            inside = PARTS[part][0] + tl.arange(0, PARTS[part][1]) < WIDTH
            centred = tl.where(inside, ys[part] - mean, 0.0)
            variance += tl.sum(centred * centred, 0) / WIDTH
        scale = tl.rsqrt(variance + eps)
        mapped = ()
        for part in tl.static_range(len(PARTS)):
            column = PARTS[part][0] + tl.arange(0, PARTS[part][1])
            at = sample * affine_stride + column
            w = _load_shared(weight + at, column < WIDTH)
            y = (ys[part] - mean) * scale * w + _load_shared(bias + at, column < WIDTH)
            mapped = mapped + (y,)
        _store_row(out, out_scale, row, mapped, WIDTH, PARTS, QUANTIZE)


@triton.jit
def _gelu_kernel(
    x,
    bias,
    out,
    out_scale,
    WIDTH: tl.constexpr,
    PARTS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    QUANTIZE: tl.constexpr,
):
    """Add a bias to a row, apply the tanh GELU, store it."""
    row = tl.program_id(0).to(tl.int64)
    ys = ()
    for part in tl.static_range(len(PARTS)):
        column = PARTS[part][0] + tl.arange(0, PARTS[part][1])
        y = _load_row(x + row * WIDTH + column, column < WIDTH)
        if HAS_BIAS:
            y += _load_shared(bias + column, column < WIDTH)
        # 0.5 * (1 + tanh(u)) is sigmoid(2 u); the constant is 2 * sqrt(2 / pi).
        ys = ys + (y * tl.sigmoid(1.5957691216057308 * (y + 0.044715 * y * y * y)),)
    _store_row(out, out_scale, row, ys, WIDTH, PARTS, QUANTIZE)


@triton.jit
def _quantize_rows_kernel(
    x,
    other,
    out,
    out_scale,
    num_tokens,
    x_batch_stride,
    x_row_stride,
    x_head_stride,
    other_batch_stride,
    other_row_stride,
    other_head_stride,
    WIDTH: tl.constexpr,
    PARTS: tl.constexpr,
    HEAD: tl.constexpr,
    GROUP: tl.constexpr,
    HAS_OTHER: tl.constexpr,
):
    """Quantise a token's heads, each group in its own tensor, or a sum, to one e4m3 row."""
    row = tl.program_id(0).to(tl.int64)
    sample, token = row // num_tokens, row % num_tokens
    x_start = sample * x_batch_stride + token * x_row_stride
    other_start = sample * other_batch_stride + token * other_row_stride
    ys = ()
    for part in tl.static_range(len(PARTS)):
        column = PARTS[part][0] + tl.arange(0, PARTS[part][1])
        head, channel = (column // HEAD).to(tl.int64), column % HEAD
        y = tl.zeros_like(column).to(tl.float32)
        for group in tl.static_range(len(x)):
            own = (column < WIDTH) & (column >= group * GROUP) & (column < (group + 1) * GROUP)
            at = x_start + (head - group * (GROUP // HEAD)) * x_head_stride + channel
            y += _load_row(x[group] + at, own)
        if HAS_OTHER:
            y += _load_row(other + other_start + head * other_head_stride + channel, column < WIDTH)
        ys = ys + (y,)
    _store_row(out, out_scale, row, ys, WIDTH, PARTS, True)


@triton.jit
def _softmax_heads_kernel(
    x,
    bias,
    out,
    rows_of_a_bias,
    scale,
    HEADS: tl.constexpr,
    KEYS: tl.constexpr,
    HEADS_BLOCK: tl.constexpr,
    KEYS_BLOCK: tl.constexpr,
):
    """Compute the softmax over the keys of every head of one token."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEADS_BLOCK)[:, None]
    key = tl.arange(0, KEYS_BLOCK)[None, :]
    inside = (head < HEADS) & (key < KEYS)
    at = head * KEYS + key
    y = tl.load(x + row * HEADS * KEYS + at, mask=inside, other=0.0).to(tl.float32)
    y = y * scale + tl.load(bias + row // rows_of_a_bias * HEADS * KEYS + at, mask=inside, other=0.0)
    # Heads that only fill the block keep finite numbers, and are not written.
    y = tl.where(key < KEYS, y, float("-inf"))
    y = tl.exp(y - tl.max(y, 1)[:, None])
    y = tl.div_rn(y, tl.sum(y, 1)[:, None] + tl.zeros_like(y))
    tl.store(out + row * HEADS * KEYS + at, y.to(out.dtype.element_ty), mask=inside)


def layer_norm_on_triton(x: Tensor, affine: Affine, eps: float, *, quantize: bool) -> Tensor | QuantizedRows:
    """Compute `FusedKernels.layer_norm`."""
    return cast(Tensor | QuantizedRows, _map_tokens(x, None, affine, eps, quantize=quantize)[1])


def add_on_triton(x: Tensor, branch: Branch) -> Tensor:
    """Compute `FusedKernels.add`."""
    return _map_tokens(x, branch, None, 0.0, quantize=False)[0]


def add_layer_norm_on_triton(
    x: Tensor, branch: Branch, affine: Affine, eps: float, *, quantize: bool
) -> tuple[Tensor, Tensor | QuantizedRows]:
    """Compute `FusedKernels.add_layer_norm`."""
    total, norm = _map_tokens(x, branch, affine, eps, quantize=quantize)
    return total, cast(Tensor | QuantizedRows, norm)


def _map_tokens(
    x: Tensor, branch: Branch | None, affine: Affine | None, eps: float, *, quantize: bool
) -> tuple[Tensor, Tensor | QuantizedRows | None]:
    """Add a branch to tokens `[B, L, D]`, normalise the sum, or both; None omits either.

    Returns the sum (`x` itself without a branch) and the norm (None without `affine`).
    """
    x = x.contiguous()
    total = x if branch is None else torch.empty_like(x)
    out = torch.empty_like(x, dtype=FLOAT8 if quantize else x.dtype) if affine is not None else x
    scale = x.new_empty((*x.shape[:-1], 1), dtype=torch.float32) if quantize else x
    # Unused pointers still need a tensor; the kernel's flags say which ones it reads.
    added = Branch(x) if branch is None else branch
    weight, affine_stride = (x, 0) if affine is None else _per_sample(affine.weight, x)
    bias, _ = (x, 0) if affine is None else _per_sample(affine.bias, x)
    gate, gate_stride = (x, 0) if added.gate is None else _per_sample(added.gate, x)
    _tokens_kernel[(x.shape[0] * x.shape[1],)](
        x,
        added.output.contiguous(),
        x if added.bias is None else added.bias,
        gate,
        weight,
        bias,
        total,
        out,
        scale,
        x.shape[1],
        gate_stride,
        affine_stride,
        eps,
        **_row_options(x.shape[2]),
        HAS_BRANCH=branch is not None,
        HAS_BRANCH_BIAS=added.bias is not None,
        HAS_GATE=added.gate is not None,
        NORM=affine is not None,
        QUANTIZE=quantize,
    )
    if affine is None:
        return total, None
    return total, QuantizedRows(out, scale) if quantize else out


def gelu_on_triton(x: Tensor, bias: Tensor | None, *, quantize: bool) -> Tensor | QuantizedRows:
    """Compute `FusedKernels.gelu`."""
    x = x.contiguous()
    out = torch.empty_like(x, dtype=FLOAT8 if quantize else x.dtype)
    scale = x.new_empty((*x.shape[:-1], 1), dtype=torch.float32) if quantize else x
    width = x.shape[-1]
    _gelu_kernel[(x.numel() // width,)](
        x,
        x if bias is None else bias,
        out,
        scale,
        **_row_options(width),
        HAS_BIAS=bias is not None,
        QUANTIZE=quantize,
    )
    return QuantizedRows(out, scale) if quantize else out


def quantize_rows_on_triton(x: Tensor | Sequence[Tensor], other: Tensor | None = None) -> QuantizedRows:
    """Compute `FusedKernels.quantize_rows`; `ValueError` if groups of heads differ in shape or strides."""
    groups = tuple(_with_unit_stride(part) for part in ((x,) if isinstance(x, Tensor) else x))
    first = groups[0]
    if any((part.shape, part.stride()) != (first.shape, first.stride()) for part in groups):
        raise ValueError(f"groups of heads {[[*part.shape] for part in groups]} differ in shape or strides")
    added = first if other is None else _with_unit_stride(other)
    batch, num_tokens, num_heads, head = first.shape
    width = len(groups) * num_heads * head
    out = torch.empty((batch, num_tokens, width), dtype=FLOAT8, device=first.device)
    scale = torch.empty((batch, num_tokens, 1), dtype=torch.float32, device=first.device)
    _quantize_rows_kernel[(batch * num_tokens,)](
        groups,
        added,
        out,
        scale,
        num_tokens,
        *first.stride()[:3],
        *added.stride()[:3],
        HEAD=head,
        GROUP=num_heads * head,
        HAS_OTHER=other is not None,
        **_row_options(width),
    )
    return QuantizedRows(out, scale)


def _with_unit_stride(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def softmax_heads_on_triton(products: Tensor, bias: Tensor, scale: float, num_heads: int) -> Tensor:
    """Compute `FusedKernels.softmax_heads`."""
    products = products.contiguous()
    out = torch.empty_like(products)
    num_keys = products.shape[-1] // num_heads
    _softmax_heads_kernel[(products.numel() // products.shape[-1],)](
        products,
        bias.contiguous(),
        out,
        products.shape[2],
        scale,
        HEADS=num_heads,
        KEYS=num_keys,
        HEADS_BLOCK=triton.next_power_of_2(num_heads),
        KEYS_BLOCK=triton.next_power_of_2(num_keys),
    )
    return out


def _row_options(width: int) -> dict[str, int | Parts]:
    warps = WIDE_WARPS if width > WIDE_ROW else WARPS
    return {"WIDTH": width, "PARTS": split_width(width), "num_warps": warps}


def _per_sample(vector: Tensor, x: Tensor) -> tuple[Tensor, int]:
    """Return `[D]` or `[B, 1, D]` contiguous, and the stride between samples."""
    width = x.shape[-1]
    flat = vector.reshape(-1, width).contiguous()
    return flat, 0 if flat.shape[0] == 1 else width
