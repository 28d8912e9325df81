"""The small model that ships with the package: sizes and training settings."""

import dataclasses
from typing import TypeVar

from livetalk.assembly.spec import ModelSpec, PortraitConfig
from livetalk.datasets.windows import BankConfig
from livetalk.models.audio_encoder import SpeechEncoderConfig
from livetalk.models.audio_projection import AudioProjectionConfig
from livetalk.models.dit import DiTConfig
from livetalk.models.reference_decoder import ReferenceDecoderConfig
from livetalk.models.vae import VAEConfig
from livetalk.streaming.settings import (
    AudioConfig,
    ReferenceLayout,
    SamplerConfig,
    SamplerKind,
    SeamConfig,
    StreamSettings,
)
from livetalk.training.config import (
    OptimizerConfig,
    ReferenceTrainConfig,
    SFTConfig,
    VAETrainConfig,
)

LATENT_CHANNELS = 32
PORTRAIT = PortraitConfig(height=256, width=256)

TrainConfigT = TypeVar("TrainConfigT", VAETrainConfig, SFTConfig, ReferenceTrainConfig)


def embedded_vae() -> VAEConfig:
    """Stride 16 x 16 x 4, 32 channels: 256x256 pictures become 16x16 latents."""
    return VAEConfig(
        base_dim=16,
        latent_channels=LATENT_CHANNELS,
        dim_multipliers=(3, 6, 8, 8),
        num_res_blocks=1,
        temporal_downsample=(False, True, True),
        patch_size=2,
        temporal_kernels=(1, 1, 1, 3),
    )


def embedded_reference_vae() -> VAEConfig:
    """The same latents, and a decoder that warps the portrait: 1.9 GFLOP for a frame of 256x256."""
    return dataclasses.replace(embedded_vae(), reference=ReferenceDecoderConfig())


def embedded_dit() -> DiTConfig:
    """64 tokens per latent frame, 576 per window; no text and no image branch."""
    return DiTConfig(
        dim=448,
        ffn_dim=1760,
        num_heads=7,
        num_layers=7,
        in_channels=2 * LATENT_CHANNELS + 4,
        out_channels=LATENT_CHANNELS,
        text_dim=None,
        image_dim=None,
        audio=AudioProjectionConfig(
            window=5, num_blocks=1, channels=768, hidden_dim=192, context_tokens=8, output_dim=192
        ),
    )


def embedded_stream() -> StreamSettings:
    """Eight Euler steps, 200 ms of audio look-ahead, the reference repeated over all latent frames."""
    return StreamSettings(
        audio=AudioConfig(lookahead_frames=5),
        sampler=SamplerConfig(num_steps=8, shift=3.0, kind=SamplerKind.EULER, color_strength=0.5),
        reference_layout=ReferenceLayout.BROADCAST,
        latents_per_decode=2,
        decode_dropped=False,
        seam=SeamConfig(color_frames=28, detail_frames=8),
    )


def embedded_spec(vae: VAEConfig) -> ModelSpec:
    """All of the model; `vae` carries the latent statistics that training measured."""
    return ModelSpec(
        name="embedded",
        dit=embedded_dit(),
        vae=vae,
        speech=SpeechEncoderConfig(),
        settings=embedded_stream(),
        portrait=PORTRAIT,
    )


def embedded_vae_training() -> VAETrainConfig:
    """VAE stage on one H100."""
    return VAETrainConfig(
        optimizer=OptimizerConfig(
            learning_rate=5e-4,
            weight_decay=1e-4,
            betas=(0.9, 0.98),
            use_muon=True,
            ema_decay=0.998,
            decay_from=0.45,
        ),
        batch_size=6,
    )


def embedded_decoder_training() -> VAETrainConfig:
    """Decoder tuning on whole windows, small enough for two CPU cores."""
    return VAETrainConfig(
        optimizer=OptimizerConfig(
            learning_rate=3e-4, weight_decay=0.0, betas=(0.9, 0.98), ema_decay=0.99, warmup_steps=20
        ),
        batch_size=1,
        crop=128,
    )


def embedded_reference_training() -> ReferenceTrainConfig:
    """Decoder with a reference, on one H200."""
    return ReferenceTrainConfig(
        optimizer=OptimizerConfig(
            learning_rate=5e-4,
            weight_decay=1e-3,
            use_muon=True,
            warmup_steps=300,
            ema_decay=0.998,
            decay_from=0.5,
        ),
        batch_size=8,
    )


def embedded_sft() -> SFTConfig:
    """DiT stage on one H100."""
    return SFTConfig(
        optimizer=OptimizerConfig(
            learning_rate=8e-4, weight_decay=0.01, use_muon=True, ema_decay=0.999, decay_from=0.5
        ),
        batch_size=256,
    )


def embedded_bank() -> BankConfig:
    """Windows every 7 frames (28, the distance of chunks, is a multiple), two audio variants each."""
    return BankConfig()


def with_batch_size(config: TrainConfigT, batch_size: int | None) -> TrainConfigT:
    """Replace the batch size where one is given: smoke runs use small ones."""
    return config if batch_size is None else dataclasses.replace(config, batch_size=batch_size)
