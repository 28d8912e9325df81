"""Attention from the products of the input projections on: what fused kernels do in between.

Shapes: B batch · L tokens · N heads · E head width · D model width · P ranks.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from livetalk.ops.attention_float8 import QuantizedAttention, attend_quantized
from livetalk.ops.backends import takes_bytes
from livetalk.ops.kernels.interface import FusedKernels, HeadNorm, HeadRange
from livetalk.ops.rope import RopeTables

KEYS = 1
"""Place of the keys, which lose their mean, among queries, keys and values."""


class Projected(NamedTuple):
    """Queries, keys or values, and what is still to be done to them: arguments of `FusedKernels.split_heads`.

    Attributes:
        product: `[B, L, D]`.
        bias: `[D]`, or None.
        norm: of queries and keys, or None.
        rope: tables of the L tokens, or None.
    """

    product: Tensor
    bias: Tensor | None
    norm: HeadNorm | None
    rope: RopeTables | None


class ProjectedCore(nn.Module):
    """An attention core that lets kernels write queries, keys and values where it wants them."""

    def attend_projected(
        self, parts: Sequence[Projected], num_heads: int, kernels: FusedKernels, *, by_rank: bool
    ) -> Tensor | Sequence[Tensor]:
        """Do what the function `attend_projected` does; see there."""
        raise NotImplementedError


def attend_projected(
    core: nn.Module, parts: Sequence[Projected], num_heads: int, kernels: FusedKernels, *, by_rank: bool
) -> Tensor | Sequence[Tensor]:
    """Attend with an attention core of any kind.

    Args:
        core: the core.
        parts: queries, keys and values.
        num_heads: N.
        kernels: lay out heads and round them.
        by_rank: what several ranks found may stay where it is, if their memory can be reached.

    Returns:
        `[B, L, N, E]`, or `[B, L, P, H * E]` with a rank's H heads side by side; of any strides. With
        `by_rank`, perhaps P times `[B, L, H, E]`, in the memory of several GPUs.
    """
    if isinstance(core, ProjectedCore):
        return core.attend_projected(parts, num_heads, kernels, by_rank=by_rank)
    if not takes_bytes(core):
        return attend_split(core, parts, num_heads, kernels)
    heads, spreads = measure_heads(parts, num_heads, kernels)
    rounded = [
        kernels.quantize_heads(part, spread, centre=index == KEYS)
        for index, (part, spread) in enumerate(zip(heads, spreads, strict=True))
    ]
    return attend_quantized(QuantizedAttention(*rounded))


def attend_split(
    core: nn.Module, parts: Sequence[Projected], num_heads: int, kernels: FusedKernels
) -> Tensor:
    """Call a core with queries, keys and values by heads; return `[B, L, N, E]`."""
    found: Tensor = core(*(kernels.split_heads(*part, (num_heads, 1))[0][0] for part in parts))
    return found


def measure_heads(
    parts: Sequence[Projected], num_heads: int, kernels: FusedKernels
) -> tuple[list[Tensor], list[HeadRange]]:
    """Return queries, keys and values, `[B, L, N, E]`, and their ranges."""
    heads, spreads = [], []
    for part in parts:
        split, spread = kernels.split_heads(*part, (num_heads, 1), measure=True)
        assert spread is not None
        heads.append(split[0])
        spreads.append(spread)
    return heads, spreads
