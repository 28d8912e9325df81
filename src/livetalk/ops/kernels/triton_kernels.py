"""The fused operations on Triton."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from livetalk.ops.attention_float8 import QuantizedHeads
from livetalk.ops.kernels.heads import (
    measure_heads_on_triton,
    quantize_heads_into_on_triton,
    quantize_heads_on_triton,
    split_heads_on_triton,
)
from livetalk.ops.kernels.interface import Affine, Branch, HeadNorm, HeadRange
from livetalk.ops.kernels.pixels import (
    add_channels_on_triton,
    channel_norm_on_triton,
    join_phases_on_triton,
)
from livetalk.ops.kernels.ranges import join_ranges_on_triton
from livetalk.ops.kernels.rows import (
    gelu_on_triton,
    quantize_rows_on_triton,
    softmax_heads_on_triton,
    tokens_on_triton,
)
from livetalk.ops.matmul import QuantizedRows
from livetalk.ops.rope import RopeTables


class TritonKernels:
    """Each fused operation as one kernel; see `FusedKernels` for the arguments."""

    name = "triton"

    def split_heads(
        self,
        x: Tensor,
        bias: Tensor | None,
        norm: HeadNorm | None,
        rope: RopeTables | None,
        heads: tuple[int, int],
        *,
        measure: bool = False,
        out: Sequence[Tensor] | None = None,
    ) -> tuple[Sequence[Tensor], HeadRange | None]:
        """Add a bias, normalise, rotate, and lay out by groups of heads."""
        return split_heads_on_triton(x, bias, norm, rope, heads, measure=measure, out=out)

    def measure_heads(self, x: Tensor) -> HeadRange:
        """Find the range of heads."""
        return measure_heads_on_triton(x)

    def join_ranges(self, bounds: Tensor) -> HeadRange:
        """Join the ranges that several ranks found."""
        return join_ranges_on_triton(bounds)

    def quantize_heads(self, x: Tensor, spread: HeadRange, *, centre: bool) -> QuantizedHeads:
        """Round heads to e4m3 by their known range."""
        return quantize_heads_on_triton(x, spread, centre=centre)

    def quantize_heads_into(
        self, x: Tensor, spread: HeadRange, out: Sequence[Tensor], *, centre: bool
    ) -> Tensor:
        """Round heads to e4m3 by their known range, by groups to where they are wanted."""
        return quantize_heads_into_on_triton(x, spread, out, centre=centre)

    def layer_norm(self, x: Tensor, affine: Affine, eps: float, *, quantize: bool) -> Tensor | QuantizedRows:
        """Normalise and map."""
        return cast(Tensor | QuantizedRows, tokens_on_triton(x, None, affine, eps, quantize=quantize)[1])

    def add(self, x: Tensor, branch: Branch) -> Tensor:
        """Add a branch to the tokens."""
        return tokens_on_triton(x, branch, None, 0.0, quantize=False)[0]

    def add_layer_norm(
        self, x: Tensor, branch: Branch, affine: Affine, eps: float, *, quantize: bool
    ) -> tuple[Tensor, Tensor | QuantizedRows]:
        """Add a branch, then normalise the rounded sum for the next branch."""
        total, norm = tokens_on_triton(x, branch, affine, eps, quantize=quantize)
        return total, cast(Tensor | QuantizedRows, norm)

    def gelu(self, x: Tensor, bias: Tensor | None, *, quantize: bool) -> Tensor | QuantizedRows:
        """Return the tanh GELU of `x + bias`."""
        return gelu_on_triton(x, bias, quantize=quantize)

    def quantize_rows(self, x: Tensor | Sequence[Tensor], other: Tensor | None = None) -> QuantizedRows:
        """Round heads, or the sum of two, to e4m3 rows."""
        return quantize_rows_on_triton(x, other)

    def softmax_heads(self, products: Tensor, bias: Tensor, scale: float, num_heads: int) -> Tensor:
        """Turn what absorbed speech was multiplied by into weights."""
        return softmax_heads_on_triton(products, bias, scale, num_heads)

    # These stand among layers that a compiler may be given.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def channel_norm(
        self, x: Tensor, weight: Tensor, *, silu: bool, bias: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """Divide each pixel by the root mean square of its channels, scale, and optionally apply SiLU."""
        return channel_norm_on_triton(x, weight, silu=silu, bias=bias, out=out)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def add_channels(self, x: Tensor, bias: Tensor, skip: Tensor) -> Tensor:
        """Add a bias and a shortcut to what a convolution made."""
        return add_channels_on_triton(x, bias, skip)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def join_phases(self, phases: Tensor, bias: Tensor) -> Tensor:
        """Put together a picture of twice the size from its four phases, and add a bias."""
        return join_phases_on_triton(phases, bias)
