"""Smooth borders between chunks: let the difference of two decodings of one frame fade out.

The last frame of a chunk is decoded twice, once at the end of its window and once as the last motion frame of
the next. Where the VAE's round trip is not exact the two differ, and the picture steps. Here the new chunk
starts with that difference added, so that the border shows motion only, and the difference fades: slowly
where it is a colour, quickly where it is a detail that would stay behind while the face moves on.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

COARSE_CELL = 16
"""Side in pixels of the squares that tell colour from detail."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SeamConfig:
    """How long the difference lasts; 0 leaves it out (the published behaviour).

    Attributes:
        color_frames: frames until the coarse part is gone; at most a chunk, or borders add up.
        detail_frames: frames until the fine part is gone.
    """

    color_frames: int = 0
    detail_frames: int = 0

    @property
    def enabled(self) -> bool:
        """Whether anything is done."""
        return self.color_frames > 0 or self.detail_frames > 0


def hide_seam(pixels: Tensor, last_frame: Tensor | None, num_new: int, config: SeamConfig) -> Tensor:
    """Fade in a chunk from the frame that was shown last.

    Args:
        pixels: `[1, 3, F, H, W]`, -1..1, F > `num_new`; the frame before the new ones shows the moment of
            `last_frame`.
        last_frame: `[1, 3, H, W]`, -1..1, as shown; None at the start of a stream.
        num_new: new frames, at the end of `pixels`.
        config: lengths of the fades.

    Returns:
        `pixels` with the new frames changed, clamped to -1..1.
    """
    if last_frame is None or not config.enabled:
        return pixels
    difference = last_frame - pixels[:, :, -num_new - 1]
    coarse = _coarse(difference)
    parts = ((coarse, config.color_frames), (difference - coarse, config.detail_frames))
    added = sum(part[:, :, None] * _fade(num_new, length, pixels) for part, length in parts)
    new = (pixels[:, :, -num_new:] + added).clamp(-1, 1)
    return torch.cat((pixels[:, :, :-num_new], new), dim=2)


def _coarse(difference: Tensor) -> Tensor:
    height, width = difference.shape[-2:]
    cells = (max(1, height // COARSE_CELL), max(1, width // COARSE_CELL))
    return F.interpolate(F.adaptive_avg_pool2d(difference, cells), size=(height, width), mode="bilinear")


def _fade(num_frames: int, length: int, like: Tensor) -> Tensor:
    """Weights from just under 1 down to 0 after `length` frames, `[1, 1, num_frames, 1, 1]`."""
    frames = torch.arange(1, num_frames + 1, dtype=like.dtype, device=like.device)
    weights = (1 - frames / (length + 1)).clamp_min(0) if length else torch.zeros_like(frames)
    return weights.view(1, 1, -1, 1, 1)
