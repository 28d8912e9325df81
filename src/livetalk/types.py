"""Types that several packages exchange.

Shapes: C channels · F frames · T latent frames · H W and h w height and width of frames and latents.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditioning:
    """The constant conditioning of a stream: the encoded reference image and the optional prompt."""

    reference_pixels: Tensor  # `[1, 3, 1, H, W]` float32, -1..1; target of colour matching
    reference_latents: Tensor  # `[1, C, 1, h, w]`, normalised; the clean motion latents of the first chunk
    condition: Tensor  # `[1, stride + C, T, h, w]`, mask and reference latents as the transformer takes them
    text_embeds: Tensor | None = None
    image_embeds: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptEmbeds:
    """The encoded prompt and portrait."""

    text_embeds: Tensor | None  # `[1, S, text_dim]`; None without a text branch
    image_embeds: Tensor | None  # `[1, S, image_dim]`; None without an image branch


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoChunk:
    """The new frames of one chunk, or consecutive ones of them."""

    pixels: Tensor  # `[3, F, H, W]` float32, -1..1
    first_frame: int  # index in the stream

    def to_uint8(self) -> Tensor:
        """Return the frames as `[F, H, W, 3]` uint8 RGB, truncated like the published output."""
        return to_levels(self.pixels).to(torch.uint8)


def to_levels(pixels: Tensor) -> Tensor:
    """Scale pixels `[3, F, H, W]`, -1..1, to `[F, H, W, 3]`, 0..255, without rounding."""
    return ((pixels + 1) * 127.5).permute(1, 2, 3, 0)
