"""What fused kernels compute, whoever computes it.

Shapes: B batch · L tokens · D model width · N heads · E head width · P groups of heads · C channels.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from livetalk.ops.attention_float8 import QuantizedHeads
from livetalk.ops.matmul import QuantizedRows
from livetalk.ops.rope import RopeTables


class Branch(NamedTuple):
    """What a branch of a block adds to the tokens: `(output + bias) * gate`.

    Attributes:
        output: `[B, L, D]`, of the branch's last linear layer.
        bias: `[D]` that the layer left out; None where it is in already.
        gate: `[B, 1, D]` float32; None for 1.
    """

    output: Tensor
    bias: Tensor | None = None
    gate: Tensor | None = None


class Affine(NamedTuple):
    """The map after a layer norm: `norm * weight + bias`, in float32.

    Attributes:
        weight: `[D]`, or `[B, 1, D]` (1 + scale of a modulation), any float dtype.
        bias: of the shape of `weight` (shift of a modulation).
    """

    weight: Tensor
    bias: Tensor


class HeadNorm(NamedTuple):
    """The norm of queries or keys, which spans all heads.

    Attributes:
        weight: `[D]`.
        eps: added to the mean square.
    """

    weight: Tensor
    eps: float


class HeadRange(NamedTuple):
    """What tokens take on in every channel of every head.

    Attributes:
        bounds: `[B, 3, N, E]` float32, contiguous: the lowest, the highest and the mean over the tokens.
    """

    bounds: Tensor

    @property
    def lowest(self) -> Tensor:
        """The lowest over the tokens, `[B, N, E]`."""
        return self.bounds[:, 0]

    @property
    def highest(self) -> Tensor:
        """The highest over the tokens, `[B, N, E]`."""
        return self.bounds[:, 1]

    @property
    def mean(self) -> Tensor:
        """The mean over the tokens, `[B, N, E]`."""
        return self.bounds[:, 2]


class FusedKernels(Protocol):
    """All fused operations. Everything between reading and writing is float32 and is rounded once."""

    @property
    def name(self) -> str:
        """Return "torch" or "triton"."""

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
        """Add a bias, normalise, rotate, and lay out by groups of heads: a projection's way to attention.

        Args:
            x: `[B, L, D]`, of a linear layer; rows may be apart (a part of a wider tensor).
            bias: `[D]`, or None.
            norm: of queries and keys, or None.
            rope: tables of the L tokens, or None.
            heads: N, and the groups P that they are split into.
            measure: note the range of the result, which rounding to one byte needs.
            out: where to write each group, P times `[B, L, N / P, E]`, all of the same strides and with heads
                side by side: in the memory of several GPUs, say. None for new, contiguous tensors.

        Returns:
            P times `[B, L, N / P, E]` in the dtype of `x` or of `out`: group p is what rank p of an exchange
            of heads gets. And the range of these rounded numbers, or None.
        """

    def measure_heads(self, x: Tensor) -> HeadRange:
        """Find the range of heads that come from elsewhere; `x` is `[B, L, N, E]`, of any strides."""

    def join_ranges(self, bounds: Tensor) -> HeadRange:
        """Join the ranges that several ranks found, each of its own tokens.

        Args:
            bounds: `[P, B, 3, N, E]` float32, of P ranks: lowest, highest, and the mean times the rank's
                share of the tokens, so that these add up to the mean of all.
        """

    def quantize_heads(self, x: Tensor, spread: HeadRange, *, centre: bool) -> QuantizedHeads:
        """Round heads to e4m3 by their known range.

        Args:
            x: `[B, L, N, E]`, of any strides.
            spread: of `x`, and of further tokens perhaps.
            centre: take the mean off first, as keys want.
        """

    def quantize_heads_into(
        self, x: Tensor, spread: HeadRange, out: Sequence[Tensor], *, centre: bool
    ) -> Tensor:
        """Do what `quantize_heads` does, with the levels written by groups of heads.

        Args:
            x: as above.
            spread: as above.
            out: e4m3, P times `[B, L, N / P, E]`, as for `split_heads`.
            centre: as above.

        Returns:
            The scale of all heads, `[B, N]` float32.
        """

    def layer_norm(self, x: Tensor, affine: Affine, eps: float, *, quantize: bool) -> Tensor | QuantizedRows:
        """Normalise and map `[B, L, D]`; the result is in the dtype of `x`, or e4m3 rows."""

    def add(self, x: Tensor, branch: Branch) -> Tensor:
        """Add a branch to the tokens `[B, L, D]`."""

    def add_layer_norm(
        self, x: Tensor, branch: Branch, affine: Affine, eps: float, *, quantize: bool
    ) -> tuple[Tensor, Tensor | QuantizedRows]:
        """Add a branch, then normalise the rounded sum for the next branch; return both."""

    def gelu(self, x: Tensor, bias: Tensor | None, *, quantize: bool) -> Tensor | QuantizedRows:
        """Return the tanh GELU of `x + bias`, `[..., D]`, in the dtype of `x`, or e4m3 rows."""

    def quantize_rows(self, x: Tensor | Sequence[Tensor], other: Tensor | None = None) -> QuantizedRows:
        """Round what attention found, or the sum of two such, to e4m3 rows.

        Args:
            x: `[B, L, N, E]`, of any strides: some kernels write all tokens of a head side by side. Or groups
                of heads, P times `[B, L, N / P, E]` of the same strides: in the memory of several GPUs, say.
            other: `[B, L, N, E]`, of any strides.

        Returns:
            Rows `[B, L, N * E]`.
        """

    def softmax_heads(self, products: Tensor, bias: Tensor, scale: float, num_heads: int) -> Tensor:
        """Turn what absorbed speech was multiplied by into weights: the softmax of `products * scale + bias`.

        Args:
            products: `[B, T, P, N * S]`, for P tokens of T latent frames and S speech tokens of each.
            bias: `[B, T, 1, N * S]` float32.
            scale: of the products.
            num_heads: N; each head's S weights add up to 1.

        Returns:
            The shape and dtype of `products`.
        """

    def channel_norm(
        self, x: Tensor, weight: Tensor, *, silu: bool, bias: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """Divide each pixel by the root mean square of its channels, scale, and optionally apply SiLU.

        Args:
            x: `[B, C, T, H, W]` in channels_last_3d memory, or the first channels of such a tensor; all-zero
                pixels stay zero.
            weight: `[C]`.
            silu: apply it.
            bias: `[C]` to add first: of the convolution before, which left it out.
            out: where to write, of the shape and layout of `x` but for the distance between samples: the end
                of a longer buffer, say. None for a new tensor.
        """

    def add_channels(self, x: Tensor, bias: Tensor, skip: Tensor) -> Tensor:
        """Add a bias and a shortcut to what a convolution made, which may be overwritten.

        Args:
            x: `[B, C, T, H, W]` in channels_last_3d memory, or the first channels of such a tensor.
            bias: `[C]`.
            skip: of the shape of `x`.
        """

    def join_phases(self, phases: Tensor, bias: Tensor) -> Tensor:
        """Put together a picture of twice the size from its four phases, and add a bias.

        Args:
            phases: `[N, 4 * C, H + 1, W + 1]` in channels_last memory, of one convolution with a 2x2 kernel:
                by row, column and channel, what even and odd rows and columns see. The window that starts at
                pixel i - 1 is that of the even pixel 2 i and of the odd pixel 2 i - 1.
            bias: `[C]`.

        Returns:
            `[N, C, 2 * H, 2 * W]` in channels_last memory.
        """
