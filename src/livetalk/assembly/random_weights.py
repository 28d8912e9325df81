"""Random weights drawn where they stay, each layer keeping about the size of its input."""

import torch
from torch import Tensor, nn

BIAS_STD = 0.02
NORM_STD = 0.1


def draw_weights(
    module: nn.Module, *, device: torch.device, dtype: torch.dtype, rng: torch.Generator
) -> None:
    """Give a network from the meta device random weights; nothing passes through host memory.

    Args:
        module: its parameters that are on the meta device are replaced; the rest stays. It comes back in
            evaluation mode, without gradients.
        device: where they shall be.
        dtype: of the weights, which are bfloat16 numbers in every dtype.
        rng: on `device`.
    """
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter.is_meta:
                weight = _draw(name, parameter.shape, rng).to(torch.bfloat16).to(device, dtype)
                setattr(owner, name, nn.Parameter(weight, requires_grad=False))
    module.requires_grad_(False).eval()


def _draw(name: str, shape: torch.Size, rng: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=rng, device=rng.device)
    if name == "modulation":
        return noise.mul_(shape[-1] ** -0.5)
    if name == "weight" and len(shape) == 1:
        return noise.mul_(NORM_STD).add_(1)
    if len(shape) == 1:
        return noise.mul_(BIAS_STD)
    return noise.mul_(shape[1:].numel() ** -0.5)
