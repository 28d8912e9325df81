"""Augmentation of rendered clips towards photographs, so that trained networks transfer to photographs.

Rendered heads have cleaner images, softer light and smoother surfaces than photographs. A share of the clips
gets changed tones, uneven light, texture, grain, sharpness and compression, constant over each clip.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

CHANGED_SHARE = 0.5
"""Share of clips that are augmented."""

_BLOCK = 8
_COARSE_OCTAVES = ((32, 0.05), (8, 0.025))
_FINE_OCTAVES = ((4, 0.02), (2, 0.015))
"""Pixels per noise cell, and the largest standard deviation of the noise in log light."""


def augment_clips(video: Tensor, rng: torch.Generator, *, texture: bool = True) -> Tensor:
    """Augment a share of the clips [B, F, 3, H, W], 0..1; the others stay untouched.

    `rng` is on the device of `video`. `texture` adds texture and grain that are fixed to the frame.
    """
    changed = (_uniform(rng, video, 0, 1, video.shape[0]) < CHANGED_SHARE).nonzero().squeeze(1)
    if not len(changed):
        return video
    # Random values are drawn once per clip, so that motion and identity stay consistent.
    altered = _tones(video[changed], rng) * _light(video[changed], rng, texture)
    altered = _sharpness(_local_contrast(altered, rng), rng).clamp(0, 1)
    altered = _on_share(altered, rng, 0.2, _compress)
    return video.index_copy(0, changed, altered)


def _uniform(rng: torch.Generator, like: Tensor, low: float, high: float, *shape: int) -> Tensor:
    """Draw from low..high on the device of `like`."""
    return low + (high - low) * torch.rand(shape, generator=rng, device=like.device)


def _per_clip(values: Tensor) -> Tensor:
    return values.view(len(values), 1, -1, 1, 1)


def _sometimes(rng: torch.Generator, like: Tensor, share: float, low: float, high: float) -> Tensor:
    """Draw [B, 1, 1, 1, 1] from low..high for a share of the clips, 0 for the others."""
    batch = len(like)
    chosen = _uniform(rng, like, 0, 1, batch) < share
    return _per_clip(torch.where(chosen, _uniform(rng, like, low, high, batch), 0.0))


def _on_share(
    video: Tensor, rng: torch.Generator, share: float, change: Callable[[Tensor, torch.Generator], Tensor]
) -> Tensor:
    """Apply a change to a share of the clips; the others cost nothing."""
    chosen = (_uniform(rng, video, 0, 1, len(video)) < share).nonzero().squeeze(1)
    return video.index_copy(0, chosen, change(video[chosen], rng)) if len(chosen) else video


def _tones(video: Tensor, rng: torch.Generator) -> Tensor:
    """Change gamma, colour cast, contrast and saturation."""
    batch = len(video)
    gamma = _per_clip(_uniform(rng, video, 0.75, 1.3, batch))
    gain = _per_clip(_uniform(rng, video, 0.88, 1.12, batch, 3))
    contrast = _per_clip(_uniform(rng, video, 0.8, 1.15, batch))
    altered = video.clamp(1e-4, 1).pow(gamma) * (gain * contrast) + 0.5 * (1 - contrast)
    luma = altered.mean(2, keepdim=True)
    return torch.lerp(luma, altered, _per_clip(_uniform(rng, video, 0.4, 1.3, batch)))


def _light(video: Tensor, rng: torch.Generator, texture: bool) -> Tensor:
    """Return gains [B, 1, 3, H, W]: directional light, uneven light, vignette, texture and grain."""
    batch, height, width = len(video), video.shape[-2], video.shape[-1]
    down = torch.linspace(-1, 1, height, device=video.device)[:, None]
    across = torch.linspace(-1, 1, width, device=video.device)[None]
    turn = _per_clip(_uniform(rng, video, 0, 2 * math.pi, batch))
    slope = turn.cos() * across + turn.sin() * down
    tint = 1 + 0.06 * _per_clip(torch.randn(batch, 3, generator=rng, device=video.device))
    log_gain = _sometimes(rng, video, 0.6, 0.1, 0.45) * slope * tint
    log_gain = log_gain - _sometimes(rng, video, 0.3, 0.1, 0.35) * (across * across + down * down)
    uneven = _noise(video, rng, 64)
    log_gain = log_gain + _sometimes(rng, video, 0.5, 0.03, 0.15) * uneven
    for octaves in (_COARSE_OCTAVES, _FINE_OCTAVES) if texture else ():
        strength = _sometimes(rng, video, 0.45, 0.2, 1.0)
        for cell, deviation in octaves:
            log_gain = log_gain + strength * deviation * _noise(video, rng, cell)
    return log_gain.exp()


def _noise(video: Tensor, rng: torch.Generator, cell: int) -> Tensor:
    """Return smooth noise [B, 1, 1, H, W] of about unit variance with `cell` pixels per cell."""
    batch, height, width = len(video), video.shape[-2], video.shape[-1]
    cells = (max(2, height // cell), max(2, width // cell))
    noise = torch.randn(batch, 1, *cells, generator=rng, device=video.device)
    if cell > 1:
        noise = F.interpolate(noise, size=(height, width), mode="bicubic", align_corners=False)
    return noise[:, None]


def _local_contrast(video: Tensor, rng: torch.Generator) -> Tensor:
    """Increase or reduce the difference of each frame from a strongly blurred copy."""
    amount = _sometimes(rng, video, 0.4, -0.15, 0.35)
    planes = video.flatten(0, 1)
    small = F.avg_pool2d(planes, 16, ceil_mode=True)
    blurred = F.interpolate(small, size=video.shape[-2:], mode="bilinear", align_corners=False)
    return video + amount * (video - blurred.view_as(video))


def _sharpness(video: Tensor, rng: torch.Generator) -> Tensor:
    """Blur or sharpen by up to about one pixel."""
    amount = _sometimes(rng, video, 0.5, -0.8, 0.6)
    padded = F.pad(video.flatten(0, 1), (1, 1, 1, 1), mode="replicate")
    blurred = F.avg_pool2d(padded, 3, stride=1)
    return video + amount * (video - blurred.view_as(video))


def _compress(video: Tensor, rng: torch.Generator) -> Tensor:
    """Quantize cosine coefficients of 8 x 8 blocks as lossy codecs do, high frequencies more coarsely."""
    height, width = video.shape[-2], video.shape[-1]
    planes = F.pad(video.flatten(0, 1), (0, -width % _BLOCK, 0, -height % _BLOCK), mode="replicate")
    rows, columns = planes.shape[-2] // _BLOCK, planes.shape[-1] // _BLOCK
    blocks = planes.reshape(*video.shape[:3], rows, _BLOCK, columns, _BLOCK).transpose(-3, -2)
    basis = _cosines(video.device)
    index = torch.arange(_BLOCK, device=video.device)
    steps = 0.02 + 0.012 * (index[:, None] + index[None])
    steps = steps * _uniform(rng, video, 0.5, 2.0, len(video)).view(-1, 1, 1, 1, 1, 1, 1)
    coefficients = torch.round((basis @ blocks @ basis.T) / steps) * steps
    restored = (basis.T @ coefficients @ basis).transpose(-3, -2).reshape(planes.shape)
    return restored.view(*video.shape[:3], *planes.shape[-2:])[..., :height, :width].clamp(0, 1)


def _cosines(device: torch.device) -> Tensor:
    """Return an orthonormal cosine basis [8, 8], one coefficient per row."""
    index = torch.arange(_BLOCK, device=device, dtype=torch.float32)
    basis = torch.cos(math.pi / _BLOCK * index[:, None] * (index[None] + 0.5)) * math.sqrt(2 / _BLOCK)
    basis[0] /= math.sqrt(2)
    return basis
