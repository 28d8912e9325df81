"""Noise schedules: the sigmas of a sampler's steps."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

FEW_STEPS = (1000.0, 750.0, 500.0, 250.0)
"""Unshifted timesteps of the published few-step model."""


def shift_sigmas(sigmas: Tensor, shift: float) -> Tensor:
    """Warp sigmas towards noise: `shift * s / (1 + (shift - 1) * s)`, which keeps 0 and 1."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def sigmas_from_steps(num_steps: int, shift: float, device: torch.device | None = None) -> Tensor:
    """Space `num_steps` steps evenly from 1 to 0, and warp them to `[num_steps + 1]` float32 sigmas.

    Raises:
        ValueError: `num_steps` is below 1, or `shift` is not positive.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    return sigmas_from_timesteps([1000 * (1 - i / num_steps) for i in range(num_steps)], shift, device)


def sigmas_from_timesteps(
    timesteps: Sequence[float] = FEW_STEPS, shift: float = 5.0, device: torch.device | None = None
) -> Tensor:
    """Warp unshifted timesteps, descending in (0, 1000], to `[len(timesteps) + 1]` sigmas; the last is 0.

    Raises:
        ValueError: the list does not descend, leaves its range, or the shift is not positive.
    """
    falling = [*timesteps, 0.0]
    if any(a <= b for a, b in itertools.pairwise(falling)) or falling[0] > 1000 or len(falling) < 2:
        raise ValueError(f"timesteps must fall from at most 1000 to above 0, got {list(timesteps)}")
    if shift <= 0:
        raise ValueError(f"shift must be positive, got {shift}")
    # In float64, so that the only rounding is the final one to float32.
    sigmas = shift_sigmas(torch.tensor(falling, dtype=torch.float64) / 1000, shift)
    return sigmas.to(torch.float32).to(device)
