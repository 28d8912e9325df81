"""Mixed precision of training steps."""

import torch

from livetalk.device import choose_dtype


def mixed_precision(device: torch.device) -> torch.autocast:
    """Compute in bfloat16 where the device does so natively, in float32 elsewhere; weights stay float32."""
    dtype = choose_dtype("auto", device)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16)
