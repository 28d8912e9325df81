"""Self-attention between fused kernels: from a linear layer's input to what its output projection reads.

Shapes: B batch · L a rank's tokens · M the tokens of all ranks · N heads · H a rank's heads · E head width ·
D model width · P ranks.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from livetalk.accelerate.fused_qkv import FusedSelfAttention
from livetalk.ops.attention_float8 import (
    QuantizedAttention,
    QuantizedHeads,
    attend_quantized,
    float8_attention,
    float8_attention_reference,
)
from livetalk.ops.backends import KernelCore
from livetalk.ops.kernels.interface import FusedKernels, HeadNorm, HeadRange
from livetalk.ops.low_precision import FLOAT8
from livetalk.ops.matmul import QuantizedRows
from livetalk.ops.norm import RMSNorm
from livetalk.ops.rope import RopeTables
from livetalk.parallel.ulysses import UlyssesAttention
from livetalk.placement.float8 import Float8Linear

FLOAT8_CORES = {"fa3-fp8": float8_attention, "fp8-reference": float8_attention_reference}
"""Attention kernels whose input the kernel before them can write in one byte."""

KEYS = 1
"""Place of the keys, which lose their mean, among queries, keys and values."""


class _Part(NamedTuple):
    """Queries, keys or values, and what is still to be done to them: the arguments of `split_heads`."""

    projected: Tensor
    bias: Tensor | None
    norm: HeadNorm | None
    rope: RopeTables | None


def attend_to_tokens(
    attention: nn.Module, kernels: FusedKernels, x: Tensor | QuantizedRows, rope: RopeTables
) -> Tensor | Sequence[Tensor]:
    """Let tokens see one another.

    Args:
        attention: a block's self-attention, in any form.
        kernels: that work between its layers.
        x: normed tokens, `[B, L, D]`; in one byte only if its input projection takes that.
        rope: tables of the L tokens.

    Returns:
        What the output projection reads: `[B, L, N, E]`, or `[B, L, P, H * E]` with a rank's heads side by
        side; of any strides. If it takes rows of one byte, perhaps P times `[B, L, H, E]`, in the memory of
        several GPUs, for `FusedKernels.quantize_rows`.
    """
    core: nn.Module = attention.get_submodule("core")
    num_heads = cast(int, attention.num_heads)
    parts = _project_tokens(attention, x, rope)
    if isinstance(core, UlyssesAttention) and core.takes_parcels:
        if _reads_bytes(core.core):
            by_rank = takes_rows(attention.get_submodule("out"))
            found = _attend_over_ranks_in_bytes(parts, num_heads, kernels, core, by_rank)
        else:
            found = _attend_over_ranks(parts, num_heads, kernels, core)
    elif _reads_bytes(core):
        heads, spreads = _measured_heads(parts, num_heads, kernels)
        rounded = [
            kernels.quantize_heads(part, spread, centre=index == KEYS)
            for index, (part, spread) in enumerate(zip(heads, spreads, strict=True))
        ]
        found = attend_quantized(QuantizedAttention(*rounded))
    else:
        found = core(*(kernels.split_heads(*part, (num_heads, 1))[0][0] for part in parts))
    return found.type_as(parts[0].projected) if isinstance(found, Tensor) else found


def _attend_over_ranks(
    parts: Sequence[_Part], num_heads: int, kernels: FusedKernels, core: UlyssesAttention
) -> Tensor:
    """Exchange heads that lie where a kernel wrote them; return `[B, L, P, H * E]`."""
    batch, _, width = parts[0].projected.shape
    parcel = core.new_parcel(batch, width // num_heads, parts[0].projected.dtype)
    for part, targets in zip(parts, parcel.targets, strict=True):
        kernels.split_heads(*part, (num_heads, len(targets)), out=targets)
    return core.return_heads(core.core(*core.exchange_parcel(parcel)))


def _attend_over_ranks_in_bytes(
    parts: Sequence[_Part], num_heads: int, kernels: FusedKernels, core: UlyssesAttention, by_rank: bool
) -> Tensor | list[Tensor]:
    """Round heads by their range on all ranks, then exchange bytes.

    Args:
        parts: queries, keys and values.
        num_heads: N.
        kernels: that split and round.
        core: exchanges and attends.
        by_rank: leave what the ranks found where it is, if their memory can be reached.

    Returns:
        `[B, L, P, H * E]`, or P times `[B, L, H, E]`.
    """
    batch, _, width = parts[0].projected.shape
    heads, spreads = _measured_heads(parts, num_heads, kernels)
    everywhere = core.gather_bounds(torch.cat([spread.bounds for spread in spreads]))
    spreads = [HeadRange(bounds) for bounds in kernels.join_ranges(everywhere).bounds.chunk(len(parts))]
    parcel = core.new_parcel(batch, width // num_heads, FLOAT8)
    scales = [
        kernels.quantize_heads_into(part, spread, targets, centre=index == KEYS)[:, core.own_heads]
        for index, (part, spread, targets) in enumerate(zip(heads, spreads, parcel.targets, strict=True))
    ]
    arrived = [QuantizedHeads(*part) for part in zip(core.exchange_parcel(parcel), scales, strict=True)]
    room = core.room_for_heads(batch, width // num_heads, torch.bfloat16) if by_rank else None
    found = attend_quantized(QuantizedAttention(*arrived), room)
    return core.return_heads(found) if room is None else core.reach_heads(found)


def _measured_heads(
    parts: Sequence[_Part], num_heads: int, kernels: FusedKernels
) -> tuple[list[Tensor], list[HeadRange]]:
    """Return queries, keys and values, `[B, L, N, E]`, and their ranges."""
    heads, spreads = [], []
    for part in parts:
        split, spread = kernels.split_heads(*part, (num_heads, 1), measure=True)
        assert spread is not None
        heads.append(split[0])
        spreads.append(spread)
    return heads, spreads


def _reads_bytes(core: nn.Module) -> bool:
    return isinstance(core, KernelCore) and core.kernel.name in FLOAT8_CORES


def _project_tokens(attention: nn.Module, x: Tensor | QuantizedRows, rope: RopeTables) -> list[_Part]:
    """Return queries, keys and values."""
    if isinstance(attention, FusedSelfAttention):
        product, bias = multiply(attention.qkv, x)
        biases = (None,) * 3 if bias is None else bias.chunk(3)
        projected = list(zip(product.chunk(3, dim=-1), biases, strict=True))
    else:
        projected = [multiply(attention.get_submodule(name), x) for name in ("q", "k", "v")]
    norms = (attention.get_submodule("norm_q"), attention.get_submodule("norm_k"), None)
    return [
        _Part(y, bias, HeadNorm(norm.weight, norm.eps), rope)
        if isinstance(norm, RMSNorm)
        else _Part(y, bias, None, None)
        for (y, bias), norm in zip(projected, norms, strict=True)
    ]


def takes_rows(layer: nn.Module) -> bool:
    """Tell whether a layer wants its input in one byte."""
    return isinstance(layer, Float8Linear)


def multiply(layer: nn.Module, x: Tensor | QuantizedRows) -> tuple[Tensor, Tensor | None]:
    """Apply a linear layer without its bias where that can be left out.

    Args:
        layer: linear; stored in any form.
        x: its input, `[..., in]`; in one byte only if `takes_rows`.

    Returns:
        The product `[..., out]`, and the bias `[out]` that is still to be added, or None.
    """
    if isinstance(layer, Float8Linear):
        return layer.without_bias(x), layer.bias
    if type(layer) is nn.Linear:
        assert isinstance(x, Tensor)
        return F.linear(x, layer.weight), layer.bias
    return layer(x), None


def fuse_rounding(attention: nn.Module, kernels: FusedKernels) -> None:
    """Let FP8 attention round on fused kernels what it is given in 16 bits, as ranks give each other."""
    core = attention.core
    if isinstance(core, KernelCore) and _reads_bytes(core):
        attend = FLOAT8_CORES[core.kernel.name]
        fused = partial(attend, quantize=partial(quantize_attention_fused, kernels))
        attention.core = KernelCore(replace(core.kernel, attend=fused))


def quantize_attention_fused(
    kernels: FusedKernels, q_BLNE: Tensor, k_BSNE: Tensor, v_BSNE: Tensor
) -> tuple[QuantizedAttention, Tensor]:
    """Do what `quantize_attention` does on fused kernels; see there."""
    spread = kernels.measure_heads(k_BSNE)
    q, v = (kernels.quantize_heads(x, kernels.measure_heads(x), centre=False) for x in (q_BLNE, v_BSNE))
    k = kernels.quantize_heads(k_BSNE, spread, centre=True)
    return QuantizedAttention(q, k, v), spread.mean[:, None]
