"""Encoding of the reference image and prompt, which condition every chunk of a stream.

Shapes: B batch · C latent channels · H W and h w height and width of frames and latents.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from livetalk.models.dit_precompute import StreamConstants, precompute_stream
from livetalk.models.reference_decoder import DecoderReference
from livetalk.models.vae import CausalVideoVAE
from livetalk.streaming.color import ColorStatistics, measure_color
from livetalk.streaming.denoise import sampler_sigmas, step_timesteps
from livetalk.streaming.executor import Executor
from livetalk.streaming.geometry import ChunkGeometry
from livetalk.streaming.settings import ReferenceLayout, StreamSettings
from livetalk.streaming.window import build_condition
from livetalk.tracing import span
from livetalk.types import Conditioning, PromptEmbeds


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What stays constant for a whole stream, computed once.

    Attributes:
        constants: results shared by all denoising steps; None for an executor without a plan.
        decoder_reference: the portrait as a decoder that warps it needs it; None for other decoders.
    """

    conditioning: Conditioning
    color: ColorStatistics  # statistics of the reference that frames are matched to
    constants: StreamConstants | None
    decoder_reference: DecoderReference | None = None


def prepare_stream(
    executor: Executor, settings: StreamSettings, image: Tensor, embeds: PromptEmbeds | None = None
) -> Prepared:
    """Encode a stream's reference image `[3, H, W]`, -1..1, and compute the constants of its denoising steps.

    `embeds` is for a transformer with a text or an image branch.
    """
    with span("step.reference"):
        conditioning = encode_conditioning(
            executor.networks.vae,
            image.to(executor.device),
            settings.geometry,
            settings.reference_layout,
            embeds,
        )
    return prepare_constants(executor, settings, conditioning)


def prepare_constants(executor: Executor, settings: StreamSettings, conditioning: Conditioning) -> Prepared:
    """Compute what all steps of a stream share; `conditioning` is on the executor's device."""
    with span("step.reference"):
        constants = None
        # Constants contain products of weights: quantize and fuse the networks before.
        if executor.plan is not None:
            constants = precompute_stream(
                executor.networks.dit,
                executor.plan,
                conditioning.condition,
                step_timesteps(sampler_sigmas(settings.sampler)),
                conditioning.text_embeds,
                conditioning.image_embeds,
            )
        color = measure_color(conditioning.reference_pixels)
        vae = executor.networks.vae
        warps = vae.config.reference is not None
        decoder_reference = vae.encode_reference(conditioning.reference_pixels[:, :, 0]) if warps else None
    return Prepared(
        conditioning=conditioning, color=color, constants=constants, decoder_reference=decoder_reference
    )


def encode_conditioning(
    vae: CausalVideoVAE,
    image: Tensor,
    geometry: ChunkGeometry,
    layout: ReferenceLayout = ReferenceLayout.FIRST_FRAME,
    embeds: PromptEmbeds | None = None,
) -> Conditioning:
    """Encode a reference image `[3, H, W]`, -1..1, that is on the device of the VAE.

    Its sides must be multiples of the VAE's spatial stride, or a `ValueError` is raised.
    """
    pixels = image.float()[None, :, None]
    reference_latents = vae.encode(pixels)[0].float()
    reference = reference_latents
    if layout is ReferenceLayout.FIRST_FRAME:
        reference = encode_grey_reference(vae, pixels, geometry)
    return Conditioning(
        reference_pixels=pixels,
        reference_latents=reference_latents,
        condition=build_condition(reference, layout, geometry),
        text_embeds=None if embeds is None else embeds.text_embeds,
        image_embeds=None if embeds is None else embeds.image_embeds,
    )


def encode_grey_reference(vae: CausalVideoVAE, pixels: Tensor, geometry: ChunkGeometry) -> Tensor:
    """Encode an image `[B, 3, 1, H, W]`, -1..1, followed by grey frames, to `[B, C, T, h, w]` float32."""
    # As published: the frames after the reference are zero, which is mid-grey.
    grey = pixels.new_zeros((pixels.shape[0], 3, geometry.window_frames - 1, *pixels.shape[3:]))
    latents, _ = vae.encode(torch.cat((pixels, grey), dim=2))
    return latents.float()
