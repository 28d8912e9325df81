"""The transformer's inputs for a window, built in one place for live streams, training and evaluation.

Shapes: B batch · C latent channels · F frames · T latent frames · M motion latent frames · h w latent size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from livetalk.diffusion.flow import timesteps_from_sigma
from livetalk.models.dit import DiT
from livetalk.ops.transfer import to_device
from livetalk.streaming.geometry import ChunkGeometry
from livetalk.streaming.settings import ReferenceLayout


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowInputs:
    """All inputs of the transformer for a window besides noisy latents and their noise level."""

    motion_latents: Tensor  # `[B, C, M, h, w]`, clean latents that start the window
    condition: Tensor  # `[B, stride + C, T, h, w]`, from `build_condition`
    audio_context: Tensor  # `[B, F, context, num_blocks, channels]`, speech features around each frame
    text_embeds: Tensor | None = None  # `[B, S, text_dim]` for a transformer with a text branch
    image_embeds: Tensor | None = None  # `[B, S, image_dim]` for a transformer with an image branch
    num_motion: Tensor | None = None  # `[B]` int64, 1..M, motion latents that each element uses; None for all

    @property
    def latent_shape(self) -> tuple[int, ...]:
        batch, channels = self.motion_latents.shape[:2]
        return (batch, channels, *self.condition.shape[2:])

    @property
    def is_motion(self) -> Tensor:
        """`[B, 1, T, 1, 1]` bool, true at clean motion latents."""
        counts = self.num_motion
        if counts is None:
            counts = torch.full((self.latent_shape[0],), self.motion_latents.shape[2])
        frames = torch.arange(self.latent_shape[2], device=counts.device)
        mask = frames[None] < counts[:, None]
        return mask[:, None, :, None, None].to(self.motion_latents.device)

    def pin(self, latents: Tensor) -> Tensor:
        """Return latents `[B, C, T, h, w]` with their start replaced by the clean motion latents."""
        known = self.motion_latents.shape[2]
        pinned = torch.cat((self.motion_latents.to(latents.dtype), latents[:, :, known:]), dim=2)
        return pinned if self.num_motion is None else torch.where(self.is_motion, pinned, latents)

    def predict_velocity(self, dit: DiT, latents: Tensor, sigma: Tensor) -> Tensor:
        """Run the transformer without precomputed constants, at noise level `sigma`, `[B]` or `[]`, 0..1."""
        timesteps = to_device(timesteps_from_sigma(sigma), latents.device).expand(latents.shape[0])
        velocity: Tensor = dit(
            latents, timesteps, self.condition, self.audio_context, self.text_embeds, self.image_embeds
        )
        return velocity


def build_condition(reference: Tensor, layout: ReferenceLayout, geometry: ChunkGeometry) -> Tensor:
    """Return the condition, `[B, stride + C, T, h, w]`: a mask that marks the reference, then its latents.

    `reference` is the latent of the image, `[B, C, 1, h, w]`, for BROADCAST, and the latents of the image
    followed by grey frames, `[B, C, T, h, w]`, for FIRST_FRAME. `ValueError` for another number of frames.
    """
    wanted = 1 if layout is ReferenceLayout.BROADCAST else geometry.window_latents
    if reference.shape[2] != wanted:
        raise ValueError(
            f"layout {layout.value} needs {wanted} reference latent frames, got {reference.shape[2]}"
        )
    latents = reference.expand(-1, -1, geometry.window_latents, -1, -1)
    return torch.cat((reference_mask(latents, geometry.latent_stride), latents), dim=1)


def reference_mask(latents: Tensor, latent_stride: int) -> Tensor:
    """Return a mask `[B, latent_stride, T, h, w]` that is 1 on the first latent frame and 0 elsewhere."""
    mask = torch.zeros_like(latents[:, :1])
    mask[:, :, :1] = 1
    return mask.expand(-1, latent_stride, -1, -1, -1)
