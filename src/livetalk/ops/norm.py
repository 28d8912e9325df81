"""Normalisation and modulation with the rounding of the published networks.

Statistics and modulation are float32 for every dtype of the tokens; each norm rounds back to that dtype.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNEL_NORM_MIN = 1e-12
"""Lower bound of the norm, as in the published VAE; positions of zeros stay zero."""


class RMSNorm(nn.Module):
    """Root mean square norm over the last dimension with a learned weight."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return `[..., dim]` in the wider of the input's and the weight's dtype."""
        # The published networks round the normalised value before they multiply by the weight.
        return F.rms_norm(x.float(), self.weight.shape, None, self.eps).type_as(x) * self.weight


class LayerNorm(nn.LayerNorm):
    """Layer norm that returns the dtype of its input, also under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).type_as(x)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return `x * (1 + scale) + shift` in float32, for `x` `[B, L, D]`, `shift` and `scale` `[B, 1, D]`."""
    return torch.addcmul(shift, x.float(), 1 + scale)


def add_gated(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """Return `x + y * gate`, computed in float32 and rounded to the dtype of `x`; `gate` is `[B, 1, D]`."""
    return torch.addcmul(x.float(), y.float(), gate).type_as(x)


def channel_rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Divide each position of `x` `[B, C, ...]`, channels last, by its RMS, and scale by `weight` `[C]`."""
    weight = weight.to(x.dtype).view(-1, *[1] * (x.ndim - 2))
    # On a CPU, dtype=float32 would copy x; vector_norm sums in float32 there anyway and rounds only the norm.
    dtype = None if x.device.type == "cpu" else torch.float32
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=dtype).clamp_min(CHANNEL_NORM_MIN)
    y: torch.Tensor = x * (x.shape[1] ** 0.5 / norm).to(x.dtype)
    # In place without gradients: the frames are the largest tensors of the VAE.
    return y * weight if torch.is_grad_enabled() else y.mul_(weight)
