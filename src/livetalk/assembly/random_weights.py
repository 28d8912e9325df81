"""Random weights, drawn on their device and scaled so that each layer roughly keeps its input's variance."""

import torch
from torch import Tensor, nn

BIAS_STD = 0.02
NORM_STD = 0.1


def draw_weights(
    module: nn.Module, *, device: torch.device, dtype: torch.dtype, rng: torch.Generator
) -> None:
    """Replace the parameters of `module` that are on the meta device by random ones on `device`.

    Weights are bfloat16 numbers, whatever `dtype` stores them. `rng` is on `device`. The module ends in
    evaluation mode without gradients.
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
    # One-dimensional weights are gains of norms, whose neutral value is 1.
    if name == "weight" and len(shape) == 1:
        return noise.mul_(NORM_STD).add_(1)
    if len(shape) == 1:
        return noise.mul_(BIAS_STD)
    return noise.mul_(shape[1:].numel() ** -0.5)
