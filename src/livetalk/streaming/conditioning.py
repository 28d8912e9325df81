"""Reference image -> what every chunk of a stream is conditioned on.

Shapes: B batch · C latent channels · F frames · T latent frames · H W frame height, width.
"""

from enum import Enum

import torch
from torch import Tensor

from livetalk.models.vae import CausalVideoVAE
from livetalk.streaming.geometry import ChunkGeometry
from livetalk.types import Conditioning


class ReferenceLayout(Enum):
    """Where the reference stands in the condition.

    FIRST_FRAME: the latents of the image followed by grey frames (published).
    BROADCAST: the latent of the image at every latent frame.
    """

    FIRST_FRAME = "first_frame"
    BROADCAST = "broadcast"


@torch.no_grad()
def encode_conditioning(
    vae: CausalVideoVAE,
    image: Tensor,
    geometry: ChunkGeometry,
    layout: ReferenceLayout = ReferenceLayout.FIRST_FRAME,
    text_embeds: Tensor | None = None,
    image_embeds: Tensor | None = None,
) -> Conditioning:
    """Encode the reference image, once per stream.

    Args:
        vae: the VAE of the stream.
        image: `[3, H, W]`, -1..1, on the device of the VAE; sides multiples of its spatial stride.
        geometry: timeline of the stream.
        layout: where the reference stands.
        text_embeds: `[1, S, text_dim]` for a transformer with a text branch.
        image_embeds: `[1, S, image_dim]` for a transformer with an image branch.

    Raises:
        ValueError: the sides do not divide.
    """
    pixels = image.float()[None, :, None]
    reference_latents = vae.encode(pixels)[0].float()
    if layout is ReferenceLayout.BROADCAST:
        latents = reference_latents.expand(-1, -1, geometry.window_latents, -1, -1)
    else:
        grey = pixels.new_zeros((1, 3, geometry.window_frames - 1, *pixels.shape[3:]))
        latents = vae.encode(torch.cat((pixels, grey), dim=2))[0].float()
    return Conditioning(
        reference_pixels=pixels,
        reference_latents=reference_latents,
        condition=torch.cat((reference_mask(latents, geometry.latent_stride), latents), dim=1),
        text_embeds=text_embeds,
        image_embeds=image_embeds,
    )


def reference_mask(latents: Tensor, latent_stride: int) -> Tensor:
    """Mark the reference: one channel per frame of a latent frame, 1 on the first latent frame, 0 elsewhere.

    Args:
        latents: `[B, C, T, h, w]`, whose shape the mask takes.
        latent_stride: channels of the mask.

    Returns:
        `[B, latent_stride, T, h, w]`.
    """
    mask = torch.zeros_like(latents[:, :1])
    mask[:, :, :1] = 1
    return mask.expand(-1, latent_stride, -1, -1, -1)
