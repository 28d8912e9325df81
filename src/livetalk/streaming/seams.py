"""Seam correction: the difference between two decodings of one frame fades out over the new chunk.

The last frame of a chunk is decoded twice: at the end of its window, and as the last motion frame of the next
one. The two differ because the VAE's round trip is not exact, and the video shows a step. The correction adds
the difference to the first new frames, so that only motion is visible at the border.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from livetalk.streaming.settings import SeamConfig

COARSE_CELL = 16  # side in pixels of the cells whose mean is the coarse part of the difference


@dataclass(frozen=True, kw_only=True, slots=True)
class Seam:
    """The correction of one chunk border."""

    color: Tensor  # `[1, 3, H, W]`, the coarse part of the difference
    detail: Tensor  # `[1, 3, H, W]`, the remainder
    num_new: int
    config: SeamConfig

    def hide(self, frames: Tensor, index: int) -> Tensor:
        """Correct new frames `[1, 3, F, H, W]`, -1..1, of which the first is number `index` of the chunk."""
        # Colour fades slowly, detail quickly: detail would stay behind while the face moves.
        parts = ((self.color, self.config.color_frames), (self.detail, self.config.detail_frames))
        faded = (
            part[:, :, None] * _fade(self.num_new, length, frames)[:, :, index : index + frames.shape[2]]
            for part, length in parts
        )
        return (frames + sum(faded)).clamp(-1, 1)


def measure_seam(frame: Tensor, last_frame: Tensor, num_new: int, config: SeamConfig) -> Seam:
    """Compare the frame before a chunk, decoded in the chunk's window, with the one shown: `[1, 3, H, W]`."""
    difference = last_frame - frame
    coarse = _coarse(difference)
    return Seam(color=coarse, detail=difference - coarse, num_new=num_new, config=config)


def _coarse(difference: Tensor) -> Tensor:
    height, width = difference.shape[-2:]
    cells = (max(1, height // COARSE_CELL), max(1, width // COARSE_CELL))
    return F.interpolate(F.adaptive_avg_pool2d(difference, cells), size=(height, width), mode="bilinear")


def _fade(num_frames: int, length: int, like: Tensor) -> Tensor:
    """Return weights that fall linearly from just under 1 to 0 after `length` frames, `[1, 1, F, 1, 1]`."""
    frames = torch.arange(1, num_frames + 1, dtype=like.dtype, device=like.device)
    weights = (1 - frames / (length + 1)).clamp_min(0) if length else torch.zeros_like(frames)
    return weights.view(1, 1, -1, 1, 1)
