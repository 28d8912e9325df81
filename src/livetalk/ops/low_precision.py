"""Weights in one byte per entry: levels times one scale per output channel.

Used for stored checkpoints and for networks that compute with such weights.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

ByteFormat = Literal["float8", "int8"]
BYTE_FORMATS: tuple[ByteFormat, ...] = get_args(ByteFormat)

FLOAT8 = torch.float8_e4m3fn
FLOAT8_MAX = 448.0
INT8_MAX = 127.0

FLOAT8_RELATIVE_ERROR = 2.0**-4
"""Half a unit in the last place of e4m3's 3 mantissa bits."""

FLOAT8_MIN_ERROR = 2.0**-10
"""Half the spacing of e4m3's subnormal numbers, in units of the scale."""

INT8_ERROR = 0.5
"""Half a level, in units of the scale."""


def quantize_channels(weight: Tensor, byte_format: ByteFormat) -> tuple[Tensor, Tensor]:
    """Quantise a finite weight `[out, ...]` so that each output channel uses the full range of the format.

    As "float8" (e4m3) an entry w is restored within `FLOAT8_RELATIVE_ERROR * |w|` or `FLOAT8_MIN_ERROR *
    scale`, whichever is larger; as "int8" within `INT8_ERROR * scale`. Returns levels, contiguous, and scales
    `[out, 1, ...]` float32.
    """
    wide = weight.float()
    peak = wide.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True)
    top = FLOAT8_MAX if byte_format == "float8" else INT8_MAX
    # Channels of zeros, or of values that underflow in the division, keep scale 1.
    scale = torch.where(peak / top > 0, peak / top, torch.ones_like(peak))
    levels = (wide / scale).clamp_(-top, top)
    if byte_format == "float8":
        return levels.to(FLOAT8).contiguous(), scale
    return levels.round_().to(torch.int8).contiguous(), scale


def dequantize_channels(levels: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return levels times scales, multiplied in float32 and rounded once to `dtype`."""
    # In place: the kernel promotes each entry, so that no float32 copy of the weight exists.
    return levels.to(dtype).mul_(scale)


class ByteLinear(nn.Module):
    """A linear layer whose weight is stored in one byte per entry with one scale per output channel.

    `Module.to(dtype)` would convert the stored levels; choose the precision first.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> None:
        """Wrap levels `[out, in]`, int8 or e4m3, with scales `[out, 1]` float32."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", weight_scale)
        self.register_buffer("bias", bias)

    def dense_weight(self, dtype: torch.dtype) -> Tensor:
        """Return the dequantised weight `[out, in]`."""
        return dequantize_channels(self.weight, self.weight_scale, dtype)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.weight.dtype}"
