"""Normalisation and modulation with the rounding rules of the published networks.

Statistics and modulation are float32 whatever the dtype of the tokens; each norm rounds back to that dtype.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNEL_NORM_MIN = 1e-12


class RMSNorm(nn.Module):
    """Divide by the root mean square over the last axis, then scale by a learned weight.

    The normalised value is rounded to the input's dtype before it meets the weight.
    """

    def __init__(self, dim: int, eps: float) -> None:
        """Normalise vectors of width `dim`; `eps` is added to the mean square."""
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return `[..., dim]` in the wider of the input's and the weight's dtype."""
        return F.rms_norm(x.float(), self.weight.shape, None, self.eps).type_as(x) * self.weight


class LayerNorm(nn.LayerNorm):
    """Layer normalisation that always returns the dtype it was given, under autocast too."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `[..., dim]` in the dtype of `x`."""
        return super().forward(x).type_as(x)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return `x * (1 + scale) + shift`, computed in float32.

    Args:
        x: normalised tokens `[B, L, D]`, any float dtype.
        shift: `[B, 1, D]` float32.
        scale: `[B, 1, D]` float32.
    """
    return torch.addcmul(shift, x.float(), 1 + scale)


def add_gated(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """Return `x + y * gate`, computed in float32 and rounded to the dtype of `x`.

    Args:
        x: residual stream `[B, L, D]`.
        y: branch output `[B, L, D]`.
        gate: `[B, 1, D]` float32.
    """
    return torch.addcmul(x.float(), y.float(), gate).type_as(x)


def channel_rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Divide each position by the root mean square of its channels and scale by `weight`.

    Args:
        x: `[B, C, ...]` with channels last in memory; all-zero positions stay zero.
        weight: `[C]`.

    Returns:
        The shape and dtype of `x`.
    """
    weight = weight.to(x.dtype).view(-1, *[1] * (x.ndim - 2))
    # A wider result would make the CPU copy all of x; it sums in float32 anyway and rounds only the norm.
    dtype = None if x.device.type == "cpu" else torch.float32
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=dtype).clamp_min(CHANNEL_NORM_MIN)
    y: torch.Tensor = x * (x.shape[1] ** 0.5 / norm).to(x.dtype)
    return y * weight if torch.is_grad_enabled() else y.mul_(weight)
