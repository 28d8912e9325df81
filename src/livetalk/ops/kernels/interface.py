"""Interface of the fused kernels, with a plain and a Triton implementation.

Shapes: B batch · L tokens · D model width · N heads · E head width · P groups of heads · C channels.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from livetalk.ops.attention_float8 import QuantizedHeads
from livetalk.ops.matmul import QuantizedRows
from livetalk.ops.rope import RopeTables


class Branch(NamedTuple):
    """The output of a block's branch, to be added to the tokens as `(output + bias) * gate`."""

    output: Tensor  # `[B, L, D]`, product of the branch's last linear layer
    bias: Tensor | None = None  # `[D]` that the layer left out; None if the product includes it
    gate: Tensor | None = None  # `[B, 1, D]` float32; None for 1


class Affine(NamedTuple):
    """The map after a layer norm, `norm * weight + bias` in float32.

    Both are `[D]`, or `[B, 1, D]` (1 + scale and shift of a modulation), of any float dtype.
    """

    weight: Tensor
    bias: Tensor


class HeadNorm(NamedTuple):
    """The RMS norm of queries or keys, which spans all heads; `weight` is `[D]`."""

    weight: Tensor
    eps: float


class HeadRange(NamedTuple):
    """Range of every channel of every head over the tokens.

    `bounds` is `[B, 3, N, E]` float32, contiguous: minimum, maximum and mean, each `[B, N, E]`.
    """

    bounds: Tensor

    @property
    def lowest(self) -> Tensor:
        return self.bounds[:, 0]

    @property
    def highest(self) -> Tensor:
        return self.bounds[:, 1]

    @property
    def mean(self) -> Tensor:
        return self.bounds[:, 2]


class FusedKernels(Protocol):
    """All fused operations. Each computes in float32 and rounds once when it stores its result."""

    @property
    def name(self) -> str:
        """ "torch" or "triton"."""

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
        """Add a bias, normalise, rotate, and lay out a projection by groups of heads, as attention reads it.

        Args:
            x: `[B, L, D]`, output of a linear layer; rows may be strided (a slice of a wider tensor).
            bias: `[D]`, or None.
            norm: for queries and keys, or None.
            rope: tables of the L tokens, or None.
            heads: N and the number of groups P.
            measure: also return the range of the rounded result, which quantisation needs.
            out: tensors to write, P times `[B, L, N / P, E]` with equal strides and contiguous heads,
                possibly on peer GPUs. None allocates contiguous tensors.

        Returns:
            P times `[B, L, N / P, E]` in the dtype of `x` or `out`, where group p is for rank p of a head
            exchange; and the range, or None.
        """

    def measure_heads(self, x: Tensor) -> HeadRange:
        """Return the range of heads `[B, L, N, E]` of any strides."""

    def join_ranges(self, bounds: Tensor) -> HeadRange:
        """Merge the ranges of P ranks' tokens, `[P, B, 3, N, E]` float32.

        Each mean is weighted with the rank's share of the tokens, so that the means add up to that of all
        tokens.
        """

    def quantize_heads(self, x: Tensor, head_range: HeadRange, *, centre: bool) -> QuantizedHeads:
        """Quantise heads `[B, L, N, E]`, of any strides, to e4m3 by their range; `centre` subtracts the mean.

        The range may include tokens of other ranks.
        """

    def quantize_heads_into(
        self, x: Tensor, head_range: HeadRange, out: Sequence[Tensor], *, centre: bool
    ) -> Tensor:
        """Compute `quantize_heads`, and write the levels by groups of heads to `out`, as `split_heads` does.

        Returns the scales of all heads, `[B, N]` float32.
        """

    def layer_norm(self, x: Tensor, affine: Affine, eps: float, *, quantize: bool) -> Tensor | QuantizedRows:
        """Normalise and map `[B, L, D]`; return the dtype of `x`, or FP8 rows."""

    def add(self, x: Tensor, branch: Branch) -> Tensor:
        """Add a branch to the tokens `[B, L, D]`."""

    def add_layer_norm(
        self, x: Tensor, branch: Branch, affine: Affine, eps: float, *, quantize: bool
    ) -> tuple[Tensor, Tensor | QuantizedRows]:
        """Add a branch, then normalise the rounded sum for the next branch; return both."""

    def gelu(self, x: Tensor, bias: Tensor | None, *, quantize: bool) -> Tensor | QuantizedRows:
        """Return the tanh GELU of `x + bias`, `[..., D]`, in the dtype of `x`, or FP8 rows."""

    def quantize_rows(self, x: Tensor | Sequence[Tensor], other: Tensor | None = None) -> QuantizedRows:
        """Quantise attention results `[B, L, N, E]`, or the sum of two, to FP8 rows `[B, L, N * E]`.

        `x` may have any strides, since some kernels store the tokens of a head contiguously. It may also be
        groups of heads, P times `[B, L, N / P, E]` with equal strides, possibly on peer GPUs.
        """

    def softmax_heads(self, products: Tensor, bias: Tensor, scale: float, num_heads: int) -> Tensor:
        """Return the softmax of `products * scale + bias` over the S speech tokens of each head.

        `products` and the result are `[B, T, P, N * S]` for P tokens of each of T latent frames; `bias` is
        `[B, T, 1, N * S]` float32.
        """

    def channel_norm(
        self, x: Tensor, weight: Tensor, *, silu: bool, bias: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """Add a bias `[C]`, divide each pixel by the RMS of its channels, scale, and optionally apply SiLU.

        `x` is `[B, C, T, H, W]` in channels_last_3d memory, or the first channels of such a tensor; all-zero
        pixels stay zero without a bias. `out` has the shape and layout of `x`, except for the stride between
        samples, such as the end of a longer buffer.
        """

    def add_channels(self, x: Tensor, bias: Tensor, skip: Tensor) -> Tensor:
        """Add a bias `[C]` and a shortcut to the output of a convolution, which may be overwritten.

        `x` is `[B, C, T, H, W]` in channels_last_3d memory, or the first channels of such a tensor.
        """

    def join_phases(self, phases: Tensor, bias: Tensor) -> Tensor:
        """Interleave the four phases of an upsampled frame and add a bias `[C]`.

        `phases`, `[N, 4 * C, H + 1, W + 1]` in channels_last memory, is the output of one convolution with
        2x2 kernels; channels are ordered by even and odd rows, even and odd columns, and channel. The window
        that starts at pixel i - 1 belongs to the even output pixel 2 i and to the odd output pixel 2 i - 1.
        Returns `[N, C, 2 * H, 2 * W]` in channels_last memory.
        """
