"""Deterministic procedural noise for textures, on any device."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_PERIOD = 32


class Noise:
    """Smooth periodic value noise in three dimensions; the seed determines its lattice."""

    def __init__(self, seed: int, device: torch.device) -> None:
        lattice = np.random.default_rng(seed).random((_PERIOD,) * 3, dtype=np.float32)
        padded = np.pad(lattice, ((0, 1),) * 3, mode="wrap")
        self._volume = torch.from_numpy(padded).to(device)[None, None]

    def __call__(self, points: Tensor) -> Tensor:
        """Return values [...], 0..1, at points [..., 3]; a lattice cell has side 1."""
        wrapped = torch.remainder(points, _PERIOD)
        cell = wrapped.floor()
        fraction = wrapped - cell
        # Smooth weights instead of linear ones, which would show the lattice in relief.
        smooth = fraction * fraction * (3 - 2 * fraction)
        grid = (cell + smooth) * (2 / _PERIOD) - 1
        flat = grid.reshape(1, -1, 1, 1, 3)
        sampled = F.grid_sample(self._volume, flat, mode="bilinear", align_corners=True)
        return sampled.reshape(points.shape[:-1])

    def fractal(self, points: Tensor, octaves: int = 3) -> Tensor:
        """Return a sum of octaves, each twice as fine and half as strong, about 0..1."""
        total = torch.zeros(points.shape[:-1], device=points.device)
        weight = 0.5
        for octave in range(octaves):
            # The factor is not exactly 2, and octaves are shifted, so that their lattices do not coincide.
            total = total + weight * self(points * (2.03**octave) + 5.7 * octave)
            weight *= 0.5
        return total / (1 - 0.5**octaves)


def smoothstep(low: float | Tensor, high: float | Tensor, value: Tensor) -> Tensor:
    """Return 0 below `low`, 1 above `high`, smooth in between; `low` may exceed `high`."""
    t = ((value - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def bump(value: Tensor, centre: float, width: float) -> Tensor:
    """Return a Gaussian of height 1 around `centre`."""
    return torch.exp(-(((value - centre) / width) ** 2))
