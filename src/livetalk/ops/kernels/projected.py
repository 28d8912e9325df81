"""Attention from the outputs of the input projections, with the fused kernels that come between.

Shapes: B batch · L tokens · N heads · E head width · D model width · P ranks.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from livetalk.ops.attention_float8 import QuantizedAttention, attend_quantized
from livetalk.ops.backends import accepts_float8_heads
from livetalk.ops.kernels.interface import FusedKernels, HeadNorm, HeadRange
from livetalk.ops.rope import RopeTables

KEYS = 1
"""Index of the keys, whose mean is subtracted, in (queries, keys, values)."""


class Projected(NamedTuple):
    """Queries, keys or values `[B, L, D]` with the operations that remain: arguments of `split_heads`."""

    product: Tensor
    bias: Tensor | None
    norm: HeadNorm | None
    rope: RopeTables | None


class ProjectedCore(nn.Module):
    """An attention core that chooses where kernels write queries, keys and values."""

    def attend_projected(
        self, parts: Sequence[Projected], num_heads: int, kernels: FusedKernels, *, by_rank: bool
    ) -> Tensor | Sequence[Tensor]:
        """Compute the function `attend_projected` with this core."""
        raise NotImplementedError


def attend_projected(
    core: nn.Module, parts: Sequence[Projected], num_heads: int, kernels: FusedKernels, *, by_rank: bool
) -> Tensor | Sequence[Tensor]:
    """Attend to projections `parts` (queries, keys, values) with an attention core of any class.

    Returns `[B, L, N, E]`, or `[B, L, P, H * E]` with the H heads of each rank contiguous, of any strides.
    With `by_rank` the result may stay in peer buffers: P times `[B, L, H, E]`.
    """
    if isinstance(core, ProjectedCore):
        return core.attend_projected(parts, num_heads, kernels, by_rank=by_rank)
    if not accepts_float8_heads(core):
        return attend_split(core, parts, num_heads, kernels)
    heads, ranges = measure_heads(parts, num_heads, kernels)
    rounded = [
        kernels.quantize_heads(part, head_range, centre=index == KEYS)
        for index, (part, head_range) in enumerate(zip(heads, ranges, strict=True))
    ]
    return attend_quantized(QuantizedAttention(*rounded))


def attend_split(
    core: nn.Module, parts: Sequence[Projected], num_heads: int, kernels: FusedKernels
) -> Tensor:
    """Run a core on queries, keys and values split into heads; return `[B, L, N, E]`."""
    found: Tensor = core(*(kernels.split_heads(*part, (num_heads, 1))[0][0] for part in parts))
    return found


def measure_heads(
    parts: Sequence[Projected], num_heads: int, kernels: FusedKernels
) -> tuple[list[Tensor], list[HeadRange]]:
    """Return queries, keys and values, `[B, L, N, E]`, and their ranges."""
    heads, ranges = [], []
    for part in parts:
        split, head_range = kernels.split_heads(*part, (num_heads, 1), measure=True)
        assert head_range is not None
        heads.append(split[0])
        ranges.append(head_range)
    return heads, ranges
