"""The embedded model: sizes, stream settings and training settings."""

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
    MotionLatentsConfig,
    OptimizerConfig,
    ReferenceTrainConfig,
    SFTConfig,
    VAETrainConfig,
)

LATENT_CHANNELS = 32
"""Twice the published VAE's, because a latent stands for four times as many pixels."""
PORTRAIT = PortraitConfig(height=256, width=256)

TrainConfigT = TypeVar("TrainConfigT", VAETrainConfig, SFTConfig, ReferenceTrainConfig)


def embedded_vae() -> VAEConfig:
    """Return a VAE of stride 16 x 16 x 4 with 32 channels: 256x256 frames become 16x16 latents."""
    return VAEConfig(
        base_dim=16,
        latent_channels=LATENT_CHANNELS,
        dim_multipliers=(3, 6, 8, 8),
        num_res_blocks=1,
        temporal_downsample=(False, True, True),
        patch_size=2,
        # Temporal kernels at the coarsest level only, since they cost most at the finer ones.
        temporal_kernels=(1, 1, 1, 3),
    )


def embedded_reference_vae() -> VAEConfig:
    """Return the VAE with a decoder that warps the portrait, at 1.9 GFLOP per frame of 256x256."""
    return dataclasses.replace(embedded_vae(), reference=ReferenceDecoderConfig())


def embedded_dit() -> DiTConfig:
    """Return a DiT with 64 tokens per latent frame, 576 per window, without text and image branches."""
    return DiTConfig(
        dim=448,
        ffn_dim=1760,
        num_heads=7,
        num_layers=7,
        in_channels=2 * LATENT_CHANNELS + 4,
        out_channels=LATENT_CHANNELS,
        # Portrait and audio alone determine the video.
        text_dim=None,
        image_dim=None,
        audio=AudioProjectionConfig(
            window=5, num_blocks=1, channels=768, hidden_dim=192, context_tokens=8, output_dim=192
        ),
    )


def embedded_stream() -> StreamSettings:
    """Return 8 Euler steps, 200 ms of audio look-ahead, and the reference repeated in all latent frames."""
    return StreamSettings(
        audio=AudioConfig(lookahead_frames=5),
        # The model is not distilled: it needs Euler steps, and more of them than the published four.
        sampler=SamplerConfig(num_steps=8, shift=3.0, kind=SamplerKind.EULER, color_strength=0.5),
        reference_layout=ReferenceLayout.BROADCAST,
        latents_per_decode=2,
        # Hidden motion frames are not decoded, which the published code does: on a CPU their time matters.
        decode_dropped=False,
        seam=SeamConfig(color_frames=28, detail_frames=8),
    )


def embedded_spec(vae: VAEConfig) -> ModelSpec:
    """Return the whole model; `vae` contains the latent statistics that training measured."""
    return ModelSpec(
        name="embedded",
        dit=embedded_dit(),
        vae=vae,
        speech=SpeechEncoderConfig(),
        settings=embedded_stream(),
        portrait=PORTRAIT,
    )


def embedded_vae_training() -> VAETrainConfig:
    """Return the VAE stage for one H100."""
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
    """Return the decoder stage on whole windows, small enough for two CPU cores."""
    return VAETrainConfig(
        optimizer=OptimizerConfig(
            learning_rate=3e-4, weight_decay=0.0, betas=(0.9, 0.98), ema_decay=0.99, warmup_steps=20
        ),
        batch_size=1,
        crop=128,
    )


def embedded_reference_training() -> ReferenceTrainConfig:
    """Return the stage of the decoder with a reference, for one H200."""
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


def embedded_motion_training() -> ReferenceTrainConfig:
    """Return the stage that trains encoder and warping decoder together, for one H200."""
    return dataclasses.replace(
        embedded_reference_training(),
        judged_frames=10,
        # The reference stage has trained the critic; without it at once, the sharpness gained there is lost.
        critic_from=0.0,
        motion_latents=MotionLatentsConfig(),
    )


def embedded_sft() -> SFTConfig:
    """Return the DiT stage for one H100."""
    return SFTConfig(
        optimizer=OptimizerConfig(
            learning_rate=8e-4, weight_decay=0.01, use_muon=True, ema_decay=0.999, decay_from=0.5
        ),
        batch_size=256,
    )


def embedded_bank() -> BankConfig:
    """Return windows every 7 frames with two audio variants each."""
    # 28, the distance of chunks, is a multiple of 7: the bank contains the window that follows each window.
    return BankConfig()


def embedded_motion_bank() -> BankConfig:
    """Return the same for motion latents: two views of each clip in different geometry and looks."""
    return BankConfig(views=2, restyled=True)


def with_batch_size(config: TrainConfigT, batch_size: int | None) -> TrainConfigT:
    """Return the configuration with another batch size, unless it is None."""
    return config if batch_size is None else dataclasses.replace(config, batch_size=batch_size)
