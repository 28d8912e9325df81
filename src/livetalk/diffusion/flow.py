"""The convention of flow matching: sigma is 1 for noise and 0 for clean latents.

`x = (1 - sigma) * x0 + sigma * noise`, and the velocity is `noise - x0`. A sigma is `[]` or `[B]`, 0..1.
"""

import torch
from torch import Tensor


def expand_sigma(sigma: Tensor, like: Tensor) -> Tensor:
    """View a sigma of shape `[]` or `[B]` so that it broadcasts over `like`, `[B, ...]`."""
    return sigma.view(-1, *[1] * (like.ndim - 1)) if sigma.ndim else sigma


def add_noise(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Mix clean latents `[B, ...]` with standard normal noise of the same shape, at level `sigma`."""
    sigma = expand_sigma(sigma, x0)
    return (1 - sigma) * x0 + sigma * noise


def velocity_from(x0: Tensor, noise: Tensor) -> Tensor:
    """Return the velocity of the straight path from `x0` to `noise`."""
    return noise - x0


def x0_from_velocity(latents: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """Estimate the clean latents from latents at `sigma` and their velocity."""
    return latents - velocity * expand_sigma(sigma, latents)


def noise_from_velocity(latents: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """Estimate the noise from latents at `sigma` and their velocity."""
    return latents + velocity * (1 - expand_sigma(sigma, latents))


def velocity_from_x0(latents: Tensor, x0: Tensor, sigma: Tensor) -> Tensor:
    """Return the velocity that leads from latents at `sigma` > 0 to `x0`."""
    return (latents - x0) / expand_sigma(sigma, latents)


def timesteps_from_sigma(sigma: Tensor) -> Tensor:
    """Scale sigmas 0..1 to the 0..1000 that the network's time embedding takes, in float32."""
    return sigma.to(torch.float32) * 1000
