"""Recognition of tensors with values that are not numbers."""

import torch
from torch import Tensor


def is_finite(tensor: Tensor) -> bool:
    """Return whether a tensor of any type holds neither NaN nor infinite values; reads it once."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    if tensor.dtype.itemsize == 1:
        return int(_magnitudes(tensor).max()) < _FIRST_SPECIAL[tensor.dtype]
    return all(bool(torch.isfinite(value)) for value in torch.aminmax(tensor))


# The smallest bits, without the sign, that stand for no number.
_FIRST_SPECIAL = {torch.float8_e4m3fn: 0x7F, torch.float8_e5m2: 0x7C}


def _magnitudes(tensor: Tensor) -> Tensor:
    return tensor.view(torch.uint8) & 0x7F
