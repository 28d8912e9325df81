"""A whole model with random weights, so small that a chunk takes a fraction of a second."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from livetalk.assembly.native import SPEECH_ENCODER_FILE, save_model
from livetalk.assembly.spec import ModelSpec, PortraitConfig
from livetalk.models.audio_encoder import (
    SpeechEncoder,
    SpeechEncoderConfig,
    pack_tensors,
    packed_metadata,
)
from livetalk.models.audio_projection import AudioProjectionConfig
from livetalk.models.dit import DiT, DiTConfig
from livetalk.models.vae import CausalVideoVAE, VAEConfig
from livetalk.streaming.settings import AudioConfig, ReferenceLayout, SamplerConfig, StreamSettings

SIZE = 64
LATENT_CHANNELS = 4
SPEECH = SpeechEncoderConfig(num_layers=1, width=48, num_heads=2)


def tiny_spec(lookahead_frames: int = 0) -> ModelSpec:
    """Return a model of the same shape as the embedded model's, much smaller."""
    return ModelSpec(
        name="tiny",
        speech=SPEECH,
        dit=DiTConfig(
            dim=32,
            ffn_dim=64,
            num_heads=2,
            num_layers=1,
            in_channels=2 * LATENT_CHANNELS + 4,
            out_channels=LATENT_CHANNELS,
            audio=AudioProjectionConfig(
                window=5,
                num_blocks=1,
                channels=2 * SPEECH.width,
                hidden_dim=16,
                context_tokens=2,
                output_dim=16,
            ),
        ),
        vae=VAEConfig(
            base_dim=4,
            latent_channels=LATENT_CHANNELS,
            dim_multipliers=(1, 1, 2),
            num_res_blocks=1,
            temporal_downsample=(True, True),
            temporal_kernels=(1, 1, 3),
            patch_size=4,
        ),
        settings=StreamSettings(
            audio=AudioConfig(lookahead_frames=lookahead_frames),
            sampler=SamplerConfig(num_steps=2),
            reference_layout=ReferenceLayout.BROADCAST,
        ),
        portrait=PortraitConfig(height=SIZE, width=SIZE),
    )


def save_tiny_checkpoint(directory: Path, lookahead_frames: int = 0) -> Path:
    """Write the checkpoint; the weights are the same every time."""
    directory.mkdir(parents=True, exist_ok=True)
    spec = tiny_spec(lookahead_frames)
    torch.manual_seed(0)
    encoder = pack_tensors(SpeechEncoder(SPEECH).state_dict())
    save_file(encoder, directory / SPEECH_ENCODER_FILE, metadata=packed_metadata(SPEECH, encoder))
    dit = DiT(spec.dit)
    with torch.no_grad():
        # A fresh head is zero; these weights shall show in the pictures.
        for parameter in dit.head.parameters():
            parameter.normal_(std=0.2)
    save_model(directory, spec=spec, version="test", dit=dit, vae=CausalVideoVAE(spec.vae))
    return directory
