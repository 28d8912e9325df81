"""Small tensors from the host to a device, without waiting for what the device is at."""

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device.

    From ordinary host memory PyTorch lets the host wait until a GPU has done all it was given before and the
    copy as well. From pinned memory it lets nobody wait; PyTorch keeps that memory for the next copies, and
    does not give it away before this one is done.

    Args:
        x: on any device.
        device: where to.
    """
    if device.type != "cuda" or x.device.type != "cpu" or torch.compiler.is_compiling():
        # The compiler knows no pinned memory.
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)
