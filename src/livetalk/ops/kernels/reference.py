"""The fused operations in plain PyTorch: the twin of the kernels, and their replacement on other devices."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from livetalk.ops.attention_float8 import QuantizedHeads
from livetalk.ops.kernels.interface import Affine, Branch, HeadNorm, HeadRange
from livetalk.ops.low_precision import FLOAT8, FLOAT8_MAX
from livetalk.ops.matmul import MIN_SCALE, QuantizedRows, quantize_rows
from livetalk.ops.norm import CHANNEL_NORM_MIN
from livetalk.ops.rope import RopeTables, rotate_real


class TorchKernels:
    """Fused operations as sequences of PyTorch operations; see `FusedKernels`."""

    name = "torch"

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
        num_heads, groups = heads
        y = x.float() if bias is None else x.float() + bias.float()
        if norm is not None:
            y = F.rms_norm(y, y.shape[-1:], norm.weight.float(), norm.eps)
        y = y.view(*y.shape[:2], num_heads, -1)
        if rope is not None:
            y = rotate_real(y, rope)
        rounded = y.type_as(x)
        # Measured after rounding: quantisation reads the rounded heads, and its range must include them.
        head_range = self.measure_heads(rounded) if measure else None
        split = _by_group(rounded, groups)
        return split.contiguous().unbind(0) if out is None else _write(split, out), head_range

    def measure_heads(self, x: Tensor) -> HeadRange:
        wide = x.float()
        return HeadRange(torch.stack((wide.amin(1), wide.amax(1), wide.mean(1)), dim=1))

    def join_ranges(self, bounds: Tensor) -> HeadRange:
        lowest, highest, shares = bounds.unbind(2)
        return HeadRange(torch.stack((lowest.amin(0), highest.amax(0), shares.sum(0)), dim=1))

    def quantize_heads(self, x: Tensor, head_range: HeadRange, *, centre: bool) -> QuantizedHeads:
        centred, scale = head_scale(head_range, centre=centre)
        wide = x.float() if centred is None else x.float() - centred[:, None]
        wide = wide * scale.reciprocal()[:, None, :, None]
        return QuantizedHeads(wide.clamp(-FLOAT8_MAX, FLOAT8_MAX).to(FLOAT8), scale)

    def quantize_heads_into(
        self, x: Tensor, head_range: HeadRange, out: Sequence[Tensor], *, centre: bool
    ) -> Tensor:
        levels, scale = self.quantize_heads(x, head_range, centre=centre)
        _write(_by_group(levels, len(out)), out)
        return scale

    def layer_norm(self, x: Tensor, affine: Affine, eps: float, *, quantize: bool) -> Tensor | QuantizedRows:
        norm = F.layer_norm(x.float(), x.shape[-1:], eps=eps)
        return _round(torch.addcmul(affine.bias.float(), norm, affine.weight.float()), x.dtype, quantize)

    def add(self, x: Tensor, branch: Branch) -> Tensor:
        y = branch.output.float()
        if branch.bias is not None:
            y = y + branch.bias.float()
        if branch.gate is not None:
            y = y * branch.gate.float()
        return (x.float() + y).type_as(x)

    def add_layer_norm(
        self, x: Tensor, branch: Branch, affine: Affine, eps: float, *, quantize: bool
    ) -> tuple[Tensor, Tensor | QuantizedRows]:
        total = self.add(x, branch)
        return total, self.layer_norm(total, affine, eps, quantize=quantize)

    def gelu(self, x: Tensor, bias: Tensor | None, *, quantize: bool) -> Tensor | QuantizedRows:
        wide = x.float() if bias is None else x.float() + bias.float()
        return _round(F.gelu(wide, approximate="tanh"), x.dtype, quantize)

    def quantize_rows(self, x: Tensor | Sequence[Tensor], other: Tensor | None = None) -> QuantizedRows:
        whole = x if isinstance(x, Tensor) else torch.cat([*x], dim=2)
        return quantize_rows((whole if other is None else whole.float() + other.float()).flatten(2))

    def softmax_heads(self, products: Tensor, bias: Tensor, scale: float, num_heads: int) -> Tensor:
        logits = torch.add(bias.float(), products.float(), alpha=scale)
        weights = logits.reshape(*logits.shape[:-1], num_heads, -1).softmax(dim=-1)
        return weights.flatten(-2).type_as(products)

    def channel_norm(
        self, x: Tensor, weight: Tensor, *, silu: bool, bias: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        wide = x.float() if bias is None else x.float() + bias.float().view(-1, 1, 1, 1)
        norm = torch.linalg.vector_norm(wide, dim=1, keepdim=True).clamp_min(CHANNEL_NORM_MIN)
        y = wide * (x.shape[1] ** 0.5 / norm) * weight.float().view(-1, 1, 1, 1)
        y = (F.silu(y) if silu else y).type_as(x)
        return y if out is None else out.copy_(y)

    def add_channels(self, x: Tensor, bias: Tensor, skip: Tensor) -> Tensor:
        return (x.float() + bias.float().view(-1, 1, 1, 1) + skip.float()).type_as(x)

    def join_phases(self, phases: Tensor, bias: Tensor) -> Tensor:
        parts = phases.view(phases.shape[0], 2, 2, -1, *phases.shape[2:])
        height, width = phases.shape[2] - 1, phases.shape[3] - 1
        size = (phases.shape[0], parts.shape[3], 2 * height, 2 * width)
        out = torch.empty(size, dtype=phases.dtype, device=phases.device, memory_format=torch.channels_last)
        for row in (0, 1):
            for column in (0, 1):
                part = parts[:, row, column, :, row : row + height, column : column + width]
                out[:, :, row::2, column::2] = part + bias.view(-1, 1, 1)
        return out


def head_scale(head_range: HeadRange, *, centre: bool) -> tuple[Tensor | None, Tensor]:
    """Return the mean to subtract from heads, `[B, N, E]` or None, and their scale `[B, N]`, in float32."""
    low, high, mean = head_range.lowest, head_range.highest, head_range.mean
    if centre:
        low, high = low - mean, high - mean
    peak = torch.maximum(high.amax(-1), -low.amin(-1))
    return mean if centre else None, (peak / FLOAT8_MAX).clamp_min(MIN_SCALE)


def _by_group(heads: Tensor, groups: int) -> Tensor:
    """Return `[P, B, L, N / P, E]` from `[B, L, N, E]`."""
    return heads.reshape(*heads.shape[:2], groups, -1, heads.shape[-1]).movedim(2, 0)


def _write(groups: Tensor, out: Sequence[Tensor]) -> Sequence[Tensor]:
    for group, target in zip(groups, out, strict=True):
        target.copy_(group)
    return out


def _round(wide: Tensor, dtype: torch.dtype, quantize: bool) -> Tensor | QuantizedRows:
    return quantize_rows(wide) if quantize else wide.to(dtype)
