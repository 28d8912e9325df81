"""Non-blocking copies of small tensors from host to device."""

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device; from host memory to a GPU without blocking the host."""
    if device.type != "cuda" or x.device.type != "cpu" or torch.compiler.is_compiling():
        # The compiler does not support pinned memory.
        return x.to(device)
    # A copy from pageable memory would block the host until the GPU has finished all earlier work. PyTorch
    # caches pinned memory and reuses it only after the copy has finished.
    return x.pin_memory().to(device, non_blocking=True)
