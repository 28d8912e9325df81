"""Picture augmentation: the networks must read identity from the reference and survive photographs."""

import torch
import torch.nn.functional as F
from torch import Tensor


def augment_clips(video: Tensor, rng: torch.Generator) -> Tensor:
    """Alter each clip as a whole: colour cast, contrast, gamma, and a faint texture on a share of them.

    One draw per clip, the same for all its frames, so that motion and identity stay consistent.

    Args:
        video: [B, F, 3, H, W], 0..1.
        rng: random source on the device of `video`.

    Returns:
        [B, F, 3, H, W], 0..1.
    """
    batch = video.shape[0]

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=rng, device=video.device)

    def per_clip(values: Tensor) -> Tensor:
        return values.view(batch, 1, -1, 1, 1)

    changed = per_clip(uniform(0, 1, batch)) < 0.6
    gamma = per_clip(uniform(0.75, 1.3, batch))
    gain = per_clip(uniform(0.88, 1.12, batch, 3))
    contrast = per_clip(uniform(0.8, 1.15, batch))
    altered = video.clamp(1e-4, 1).pow(gamma) * gain
    altered = (altered - 0.5) * contrast + 0.5
    luma = altered.mean(2, keepdim=True)
    altered = luma + (altered - luma) * per_clip(uniform(0.4, 1.3, batch))
    out = torch.where(changed, altered, video)
    textured = per_clip(uniform(0, 1, batch)) < 0.2
    texture = _texture(batch, video.shape[-1], rng, video.device)
    out = torch.where(textured, out * (1 + texture[:, None]), out)
    return out.clamp(0, 1)


def _texture(batch: int, size: int, rng: torch.Generator, device: torch.device) -> Tensor:
    """Two octaves of smooth noise, [B, 1, size, size], standard deviation about 0.05."""
    total = torch.zeros(batch, 1, size, size, device=device)
    for cells, strength in ((size // 32, 0.05), (size // 8, 0.03)):
        noise = torch.randn(batch, 1, cells, cells, generator=rng, device=device)
        total = total + strength * F.interpolate(noise, size=(size, size), mode="bicubic")
    return total
