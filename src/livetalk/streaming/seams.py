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

from livetalk.streaming.settings import SeamConfig

COARSE_CELL = 16
"""Side in pixels of the squares that tell colour from detail."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seam:
    """What is added to the new frames of a chunk, each by itself.

    Attributes:
        color: `[1, 3, H, W]`, the coarse part of the difference.
        detail: `[1, 3, H, W]`, the rest of it.
        num_new: new frames of the chunk.
        config: lengths of the fades.
    """

    color: Tensor
    detail: Tensor
    num_new: int
    config: SeamConfig

    def hide(self, frames: Tensor, index: int) -> Tensor:
        """Add what is left of the difference.

        Args:
            frames: `[1, 3, F, H, W]`, -1..1, new frames that follow each other.
            index: of the first of them among the chunk's new frames.

        Returns:
            `[1, 3, F, H, W]`, clamped to -1..1.
        """
        parts = ((self.color, self.config.color_frames), (self.detail, self.config.detail_frames))
        faded = (
            part[:, :, None] * _fade(self.num_new, length, frames)[:, :, index : index + frames.shape[2]]
            for part, length in parts
        )
        return (frames + sum(faded)).clamp(-1, 1)


def measure_seam(frame: Tensor, last_frame: Tensor, num_new: int, config: SeamConfig) -> Seam:
    """Compare two decodings of one moment.

    Args:
        frame: `[1, 3, H, W]`, -1..1, the frame before a chunk's new ones, in the chunk's own window.
        last_frame: `[1, 3, H, W]`, -1..1, as shown.
        num_new: new frames of the chunk.
        config: lengths of the fades.
    """
    difference = last_frame - frame
    coarse = _coarse(difference)
    return Seam(color=coarse, detail=difference - coarse, num_new=num_new, config=config)


def _coarse(difference: Tensor) -> Tensor:
    height, width = difference.shape[-2:]
    cells = (max(1, height // COARSE_CELL), max(1, width // COARSE_CELL))
    return F.interpolate(F.adaptive_avg_pool2d(difference, cells), size=(height, width), mode="bilinear")


def _fade(num_frames: int, length: int, like: Tensor) -> Tensor:
    """Weights from just under 1 down to 0 after `length` frames, `[1, 1, num_frames, 1, 1]`."""
    frames = torch.arange(1, num_frames + 1, dtype=like.dtype, device=like.device)
    weights = (1 - frames / (length + 1)).clamp_min(0) if length else torch.zeros_like(frames)
    return weights.view(1, 1, -1, 1, 1)
