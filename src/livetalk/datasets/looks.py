"""Strong changes of how a clip looks and of its geometry, constant over the clip.

A network that sees a clip in one look and must reproduce it in another cannot pass the look through its
latents. The changes are wider than those of real cameras, so that photographs, drawings and other unfamiliar
pictures lie within them.

Shapes: B clips · F frames · H W frame height, width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

GREY_SHARE = 0.08
FLAT_SHARE = 0.06
"""Shares of clips without colours, and with a few flat levels of light as in drawings."""

_LUMA = (0.299, 0.587, 0.114)
_ELASTIC_CELLS = 6


def restyle_clips(video: Tensor, rng: torch.Generator) -> Tensor:
    """Change colours, tones, light and sharpness of all clips `[B, F, 3, H, W]`, 0..1.

    Nothing moves, so clips in different looks keep one geometry. `rng` is on the device of `video`.
    """
    batch = len(video)
    styled = _mix_colours(video, rng)
    gamma = (_normal(rng, video, batch) * 0.35).exp().clamp(0.45, 2.2)
    styled = styled.clamp(1e-4, 1).pow(_per_clip(gamma)) * _light(video, rng)
    contrast = _per_clip(_uniform(rng, video, 0.55, 1.35, batch))
    styled = (styled - 0.5) * contrast + 0.5 + _per_clip(_uniform(rng, video, -0.1, 0.1, batch))
    styled = _flatten_tones(_sharpen(styled, rng), rng)
    return styled.clamp(0, 1)


def degrade_clips(video: Tensor, rng: torch.Generator) -> Tensor:
    """Add grain and a texture that stays fixed to the frame to about half of the clips `[B, F, 3, H, W]`.

    For frames that are only encoded: a decoder must never learn to reproduce a texture that does not move.
    """
    batch, _, _, height, width = video.shape
    strength = _per_clip(torch.relu(_normal(rng, video, batch)) * 0.03)
    cell = 2 ** int(torch.randint(0, 4, (1,), generator=rng, device=video.device))
    texture = torch.randn(
        batch, 3, max(2, height // cell), max(2, width // cell), generator=rng, device=video.device
    )
    texture = F.interpolate(texture, size=(height, width), mode="bilinear", align_corners=False)[:, None]
    grain = torch.randn(video.shape, generator=rng, device=video.device)
    level = _per_clip(torch.relu(_normal(rng, video, batch)) * 0.02)
    return (video + strength * texture + level * grain).clamp(0, 1)


def deform_clips(video: Tensor, weights: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Turn, stretch, shift and bend clips `[B, F, 3, H, W]` and their loss weights `[B, 1, H, W]`.

    The same change applies to all frames of a clip; areas from beyond the border are mirrored. The weights
    keep their mean of 1.
    """
    grid = _deformation(video, rng)
    batch, frames = video.shape[:2]
    moved = F.grid_sample(
        video.flatten(1, 2), grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    moved_weights = F.grid_sample(weights, grid, padding_mode="border", align_corners=False)
    moved_weights = moved_weights / moved_weights.mean((2, 3), keepdim=True)
    return moved.view(batch, frames, *video.shape[2:]), moved_weights


def _deformation(video: Tensor, rng: torch.Generator) -> Tensor:
    """Return the positions `[B, H, W, 2]` that are sampled, -1..1, of a random affine and elastic change."""
    batch, height, width = len(video), video.shape[-2], video.shape[-1]
    turn = _normal(rng, video, batch) * math.radians(5)
    scale = (_normal(rng, video, batch, 2) * torch.tensor([0.12, 0.05], device=video.device)).clamp(-0.3, 0.3)
    across, down = (scale[:, 0] + scale[:, 1]).exp(), (scale[:, 0] - scale[:, 1]).exp()
    shift = _uniform(rng, video, -0.12, 0.12, batch, 2)
    matrix = torch.stack(
        [
            torch.stack([across * turn.cos(), -down * turn.sin(), shift[:, 0]], 1),
            torch.stack([across * turn.sin(), down * turn.cos(), shift[:, 1]], 1),
        ],
        1,
    )
    grid = F.affine_grid(matrix, [batch, 1, height, width], align_corners=False)
    bend = torch.randn(batch, 2, _ELASTIC_CELLS, _ELASTIC_CELLS, generator=rng, device=video.device)
    bend = bend * _uniform(rng, video, 0.0, 0.025, batch)[:, None, None, None]
    bend = F.interpolate(bend, size=(height, width), mode="bicubic", align_corners=False)
    return grid + bend.permute(0, 2, 3, 1)


def _mix_colours(video: Tensor, rng: torch.Generator) -> Tensor:
    """Apply a random 3 x 3 matrix to the colours that keeps grey near grey; some clips lose their colours."""
    batch = len(video)
    luma = torch.tensor(_LUMA, device=video.device)
    mixing = torch.eye(3, device=video.device) + 0.11 * _normal(rng, video, batch, 3, 3)
    saturation = _uniform(rng, video, 0.3, 1.5, batch)
    grey = _uniform(rng, video, 0, 1, batch) < GREY_SHARE
    saturation = torch.where(grey, 0.0, saturation)[:, None, None]
    mixing = mixing / mixing.sum(2, keepdim=True).clamp_min(0.5)
    mixing = saturation * mixing + (1 - saturation) * luma.expand(3, 3)
    gains = (_normal(rng, video, batch, 3) * 0.11).exp()
    return torch.einsum("bij,bfjhw->bfihw", gains[:, :, None] * mixing, video)


def _light(video: Tensor, rng: torch.Generator) -> Tensor:
    """Return gains `[B, 1, 3, H, W]` of light that is stronger on one side, tinted and uneven."""
    batch, height, width = len(video), video.shape[-2], video.shape[-1]
    down = torch.linspace(-1, 1, height, device=video.device)[:, None]
    across = torch.linspace(-1, 1, width, device=video.device)[None]
    turn = _per_clip(_uniform(rng, video, 0, 2 * math.pi, batch))
    slope = turn.cos() * across + turn.sin() * down
    tint = 1 + 0.15 * _per_clip(_normal(rng, video, batch, 3))
    uneven = torch.randn(batch, 1, 5, 5, generator=rng, device=video.device)
    uneven = F.interpolate(uneven, size=(height, width), mode="bicubic", align_corners=False)[:, None]
    log_gain = _per_clip(_normal(rng, video, batch) * 0.22) * slope * tint
    return (log_gain + _per_clip(_uniform(rng, video, 0, 0.15, batch)) * uneven).exp()


def _sharpen(video: Tensor, rng: torch.Generator) -> Tensor:
    """Blur or sharpen by one and by several pixels."""
    planes = video.flatten(0, 1)
    changed = video
    for side, low, high in ((3, -0.8, 0.7), (9, -0.3, 0.5)):
        padded = F.pad(planes, (side // 2,) * 4, mode="replicate")
        blurred = F.avg_pool2d(padded, side, stride=1).view_as(video)
        amount = _uniform(rng, video, low, high, len(video))
        changed = changed + _per_clip(amount) * (video - blurred)
    return changed


def _flatten_tones(video: Tensor, rng: torch.Generator) -> Tensor:
    """Move the light of some clips towards a few levels, with soft steps between them."""
    batch = len(video)
    chosen = _per_clip((_uniform(rng, video, 0, 1, batch) < FLAT_SHARE).float())
    levels = _per_clip(_uniform(rng, video, 3, 7, batch))
    luma = (video * torch.tensor(_LUMA, device=video.device).view(1, 1, 3, 1, 1)).sum(2, keepdim=True)
    scaled = luma.clamp(0, 1) * levels
    flat = (scaled - torch.sin(2 * math.pi * scaled) / (2 * math.pi) * 0.9) / levels
    return video + chosen * (flat - luma)


def _uniform(rng: torch.Generator, like: Tensor, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=rng, device=like.device)


def _normal(rng: torch.Generator, like: Tensor, *shape: int) -> Tensor:
    return torch.randn(shape, generator=rng, device=like.device)


def _per_clip(values: Tensor) -> Tensor:
    """View `[B]` or `[B, C]` as `[B, 1, C, 1, 1]`."""
    return values.view(len(values), 1, -1, 1, 1)
