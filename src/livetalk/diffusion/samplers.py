"""Samplers: functions over a callable. Gradients flow if the caller lets them."""

import itertools
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from livetalk.diffusion.flow import add_noise, x0_from_velocity

PredictVelocity: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(latents `[B, C, T, H, W]`, sigma `[]` float32) -> velocity of the same shape."""

NoiseSource: TypeAlias = Callable[[Tensor], Tensor]
"""latents -> fresh standard normal noise of their shape."""

Pin: TypeAlias = Callable[[Tensor], Tensor]
"""latents -> the same latents with the known part written in."""


def sample_renoise(
    predict_velocity: PredictVelocity,
    latents: Tensor,
    sigmas: Tensor,
    noise_source: NoiseSource,
    pin: Pin | None = None,
) -> Tensor:
    """Denoise in a few steps: estimate x0, then noise it again with fresh noise to the next sigma.

    Args:
        predict_velocity: the network.
        latents: noise, `[B, C, T, H, W]`.
        sigmas: `[num_steps + 1]` float32, falling from 1 to 0.
        noise_source: called once per step, the last one too (there its noise has weight 0, but it keeps the
            random stream that of the published sampler).
        pin: applied before the first step and after every step.

    Returns:
        Clean latents, `[B, C, T, H, W]` float32.
    """
    latents = latents.to(torch.float32) if pin is None else pin(latents.to(torch.float32))
    for sigma, next_sigma in itertools.pairwise(sigmas):
        x0 = x0_from_velocity(latents, predict_velocity(latents, sigma), sigma)
        latents = add_noise(x0, noise_source(x0), next_sigma)
        latents = latents if pin is None else pin(latents)
    return latents


def sample_euler(
    predict_velocity: PredictVelocity, latents: Tensor, sigmas: Tensor, pin: Pin | None = None
) -> Tensor:
    """Denoise by following the velocity from sigma to sigma; no noise but the first.

    Args:
        predict_velocity: the network.
        latents: noise, `[B, C, T, H, W]`.
        sigmas: `[num_steps + 1]` float32, falling from 1 to 0.
        pin: applied before the first step and after every step.

    Returns:
        Clean latents, `[B, C, T, H, W]` float32.
    """
    latents = latents.to(torch.float32) if pin is None else pin(latents.to(torch.float32))
    for sigma, next_sigma in itertools.pairwise(sigmas):
        latents = latents + (next_sigma - sigma) * predict_velocity(latents, sigma)
        latents = latents if pin is None else pin(latents)
    return latents


def pin_motion(motion_latents: Tensor) -> Pin:
    """Return a pin that writes clean motion latents `[B, C, M, H, W]` over the first M latent frames."""

    def pin(latents: Tensor) -> Tensor:
        return torch.cat((motion_latents.to(latents.dtype), latents[:, :, motion_latents.shape[2] :]), dim=2)

    return pin
