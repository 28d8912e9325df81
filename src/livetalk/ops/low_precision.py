"""Numbers of one byte: a weight as levels times one scale per output channel.

Both the storage of checkpoints and the networks that compute from such weights use these.
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
"""Half a unit in the last of e4m3's three binary places."""

FLOAT8_LEAST_ERROR = 2.0**-10
"""Half the distance of e4m3's smallest numbers, in scales."""

INT8_ERROR = 0.5
"""Half a level, in scales."""


def quantize_channels(weight: Tensor, byte_format: ByteFormat) -> tuple[Tensor, Tensor]:
    """Round a weight so that each output channel uses the full range of the format.

    An entry w comes back within `FLOAT8_RELATIVE_ERROR * |w|` or `FLOAT8_LEAST_ERROR * scale`, whichever is
    more, as "float8" (e4m3), and within `INT8_ERROR * scale` as "int8".

    Args:
        weight: `[out, ...]`, any float dtype, finite.
        byte_format: of the levels.

    Returns:
        Levels of the shape of `weight`, contiguous, one byte each, and scales `[out, 1, ...]` float32.
    """
    wide = weight.float()
    peak = wide.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True)
    top = FLOAT8_MAX if byte_format == "float8" else INT8_MAX
    # A channel of zeros, or of what float32 cannot divide, keeps scale 1.
    scale = torch.where(peak / top > 0, peak / top, torch.ones_like(peak))
    levels = (wide / scale).clamp_(-top, top)
    if byte_format == "float8":
        return levels.to(FLOAT8).contiguous(), scale
    return levels.round_().to(torch.int8).contiguous(), scale


def dequantize_channels(levels: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return levels times scales, `[out, ...]`, multiplied in float32 and rounded to `dtype` once."""
    return levels.to(dtype).mul_(scale)


class ByteLinear(nn.Module):
    """A linear layer whose weight is stored in one byte with one scale per output channel.

    `Module.to(dtype)` would widen the stored levels; choose the precision first.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> None:
        """Wrap a quantised weight.

        Args:
            weight: levels `[out, in]`, int8 or e4m3.
            weight_scale: `[out, 1]` float32.
            bias: `[out]`, or None.
        """
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", weight_scale)
        self.register_buffer("bias", bias)

    def dense_weight(self, dtype: torch.dtype) -> Tensor:
        """Return the weight `[out, in]` as numbers to compute with."""
        return dequantize_channels(self.weight, self.weight_scale, dtype)

    def extra_repr(self) -> str:
        """Describe the layer as `nn.Linear` does, with its storage."""
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.weight.dtype}"
