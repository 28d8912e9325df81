"""Samplers as functions of a velocity function. Gradients flow unless the caller disables them."""

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
"""latents -> the same latents with their known part replaced by clean values."""


def sample_renoise(
    predict_velocity: PredictVelocity,
    latents: Tensor,
    sigmas: Tensor,
    noise_source: NoiseSource,
    pin: Pin | None = None,
) -> Tensor:
    """Denoise in a few steps: estimate x0, then add fresh noise up to the level of the next sigma.

    `latents` is noise, `[B, C, T, H, W]`; `sigmas` is `[num_steps + 1]` float32, descending from 1 to 0.
    `pin` is applied before the first step and after every step. Returns clean latents in float32.
    """
    latents = latents.to(torch.float32) if pin is None else pin(latents.to(torch.float32))
    for sigma, next_sigma in itertools.pairwise(sigmas):
        x0 = x0_from_velocity(latents, predict_velocity(latents, sigma), sigma)
        # Also after the last step, where the weight of the noise is 0: this keeps the random numbers in
        # step with the published sampler.
        latents = add_noise(x0, noise_source(x0), next_sigma)
        latents = latents if pin is None else pin(latents)
    return latents


def sample_euler(
    predict_velocity: PredictVelocity, latents: Tensor, sigmas: Tensor, pin: Pin | None = None
) -> Tensor:
    """Denoise by Euler integration of the velocity, without noise; arguments as for `sample_renoise`."""
    latents = latents.to(torch.float32) if pin is None else pin(latents.to(torch.float32))
    for sigma, next_sigma in itertools.pairwise(sigmas):
        latents = latents + (next_sigma - sigma) * predict_velocity(latents, sigma)
        latents = latents if pin is None else pin(latents)
    return latents


def pin_motion(motion_latents: Tensor) -> Pin:
    """Return a pin that replaces the first M latent frames by clean motion latents `[B, C, M, H, W]`."""

    def pin(latents: Tensor) -> Tensor:
        return torch.cat((motion_latents.to(latents.dtype), latents[:, :, motion_latents.shape[2] :]), dim=2)

    return pin
