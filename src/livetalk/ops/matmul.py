"""FP8 matrix products with one scale per activation row and per output channel.

Shapes: M rows · K input channels · N output channels.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from livetalk.ops.low_precision import FLOAT8, FLOAT8_MAX

FLOAT8_MULTIPLE = 16
"""FP8 tensor cores require input and output channels to be multiples of this."""

MIN_SCALE = 1e-12
"""Lower bound of scales, so that rows of zeros do not divide by zero."""


class QuantizedRows(NamedTuple):
    """Activations in FP8: a row is its levels `[..., K]` e4m3 times its scale `[..., 1]` float32."""

    levels: Tensor
    scale: Tensor

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return `[..., K]`, multiplied in float32 and rounded once to `dtype`."""
        return (self.levels.float() * self.scale).to(dtype)


def quantize_rows(x: Tensor) -> QuantizedRows:
    """Quantise finite activations `[..., K]` so that each row uses the full range of e4m3.

    An entry x is restored within `FLOAT8_RELATIVE_ERROR * |x|` or `FLOAT8_MIN_ERROR * scale`, whichever is
    larger.
    """
    wide = x.float()
    scale = (wide.abs().amax(-1, keepdim=True) / FLOAT8_MAX).clamp_min(MIN_SCALE)
    # Multiplied by the reciprocal, as the Triton kernels do, so that both round alike.
    return QuantizedRows((wide * scale.reciprocal()).clamp(-FLOAT8_MAX, FLOAT8_MAX).to(FLOAT8), scale)


def float8_problem(device: torch.device) -> str | None:
    """Return why `scaled_matmul` cannot use FP8 tensor cores on a device, or None."""
    if device.type != "cuda":
        return f"FP8 tensor cores need a CUDA device, not {device.type}"
    if torch.cuda.get_device_capability(device) < (9, 0):
        return f"FP8 with a scale per row needs compute capability 9.0: {torch.cuda.get_device_name(device)}"
    return None


def scaled_matmul(
    rows: QuantizedRows, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Multiply quantised activations by a quantised weight; return `[..., N]` in `dtype`.

    `weight` is `[N, K]` e4m3, contiguous, `weight_scale` `[N, 1]` float32. CUDA requires K and N to be
    multiples of 16 and a bfloat16 result; other devices run `scaled_matmul_reference`.
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
        # Sums keep about 14 bits, which is finer than the 4 significant bits of e4m3 inputs.
        use_fast_accum=True,
    )
    return y.view(*rows.levels.shape[:-1], -1)


def scaled_matmul_reference(
    rows: QuantizedRows, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Compute `scaled_matmul` as a float32 product of the dequantised factors, rounded once to `dtype`."""
    y = F.linear(rows.dequantize(), weight.float() * weight_scale)
    return (y if bias is None else y + bias.float()).to(dtype)
