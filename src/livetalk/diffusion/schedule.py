"""Noise schedules: which sigmas a sampler visits."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

FEW_STEPS = (1000.0, 750.0, 500.0, 250.0)


def shift_sigmas(sigmas: Tensor, shift: float) -> Tensor:
    """Warp sigmas towards noise: `shift * s / (1 + (shift - 1) * s)`; 0 and 1 stay where they are."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def sigmas_from_steps(num_steps: int, shift: float, device: torch.device | None = None) -> Tensor:
    """Space `num_steps` steps evenly from noise to clean, then warp them.

    Returns:
        `[num_steps + 1]` float32, falling from 1 to 0.

    Raises:
        ValueError: fewer than one step, or a shift that is not positive.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    return sigmas_from_timesteps([1000 * (1 - i / num_steps) for i in range(num_steps)], shift, device)


def sigmas_from_timesteps(
    timesteps: Sequence[float] = FEW_STEPS, shift: float = 5.0, device: torch.device | None = None
) -> Tensor:
    """Warp a list of unshifted timesteps, as the distilled network was trained with.

    Args:
        timesteps: falling, in (0, 1000].
        shift: of `shift_sigmas`.
        device: of the result.

    Returns:
        `[len(timesteps) + 1]` float32; the last is 0.

    Raises:
        ValueError: the list does not fall, leaves its range, or the shift is not positive.
    """
    falling = [*timesteps, 0.0]
    if any(a <= b for a, b in itertools.pairwise(falling)) or falling[0] > 1000 or len(falling) < 2:
        raise ValueError(f"timesteps must fall from at most 1000 to above 0, got {list(timesteps)}")
    if shift <= 0:
        raise ValueError(f"shift must be positive, got {shift}")
    sigmas = shift_sigmas(torch.tensor(falling, dtype=torch.float64) / 1000, shift)
    return sigmas.to(torch.float32).to(device)
