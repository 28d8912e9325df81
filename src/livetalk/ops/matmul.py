"""Matrix products of FP8 numbers: rows of activations times output channels of a weight, each with its scale.

Shapes: M rows · K input channels · N output channels.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from livetalk.ops.low_precision import FLOAT8, FLOAT8_MAX

FLOAT8_MULTIPLE = 16
"""FP8 tensor cores take input and output channels in multiples of this."""


LEAST_SCALE = 1e-12
"""Scale of a row of zeros; its levels are zeros."""


class QuantizedRows(NamedTuple):
    """Activations of one byte.

    Attributes:
        levels: `[..., K]` e4m3.
        scale: `[..., 1]` float32; a row is its levels times its scale.
    """

    levels: Tensor
    scale: Tensor

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return `[..., K]`, multiplied in float32 and rounded to `dtype` once."""
        return (self.levels.float() * self.scale).to(dtype)


def quantize_rows(x: Tensor) -> QuantizedRows:
    """Round every row so that it uses the full range of e4m3.

    An entry x comes back within `FLOAT8_RELATIVE_ERROR * |x|` or `FLOAT8_LEAST_ERROR * scale`, whichever is
    more.

    Args:
        x: `[..., K]`, any float dtype, finite.
    """
    wide = x.float()
    scale = (wide.abs().amax(-1, keepdim=True) / FLOAT8_MAX).clamp_min(LEAST_SCALE)
    return QuantizedRows((wide * scale.reciprocal()).clamp(-FLOAT8_MAX, FLOAT8_MAX).to(FLOAT8), scale)


def float8_problem(device: torch.device) -> str | None:
    """Say why `scaled_matmul` cannot use FP8 tensor cores on this device; None where it can."""
    if device.type != "cuda":
        return f"FP8 tensor cores need a CUDA device, not {device.type}"
    if torch.cuda.get_device_capability(device) < (9, 0):
        return f"FP8 with a scale per row needs compute capability 9.0: {torch.cuda.get_device_name(device)}"
    return None


def scaled_matmul(
    rows: QuantizedRows, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Multiply quantised activations by a quantised weight.

    On CUDA the tensor cores sum in the reduced precision of "fast accumulation" (about 14 bits, which e4m3
    does not notice); elsewhere `scaled_matmul_reference` computes.

    Args:
        rows: `[..., K]`.
        weight: `[N, K]` e4m3, contiguous; K and N are multiples of 16 on CUDA.
        weight_scale: `[N, 1]` float32.
        bias: `[N]`, or None.
        dtype: of the result; bfloat16 on CUDA.

    Returns:
        `[..., N]`.
    """
    if weight.device.type != "cuda":
        return scaled_matmul_reference(rows, weight, weight_scale, bias, dtype)
    flat = rows.levels.reshape(-1, rows.levels.shape[-1])
    y = torch._scaled_mm(
        flat,
        weight.t(),
        scale_a=rows.scale.reshape(-1, 1),
        scale_b=weight_scale.t(),
        bias=None if bias is None else bias.to(dtype),
        out_dtype=dtype,
        use_fast_accum=True,
    )
    return y.view(*rows.levels.shape[:-1], -1)


def scaled_matmul_reference(
    rows: QuantizedRows, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Compute `scaled_matmul` as a float32 product of the dequantised factors, rounded to `dtype` once."""
    y = F.linear(rows.dequantize(), weight.float() * weight_scale)
    return (y if bias is None else y + bias.float()).to(dtype)
