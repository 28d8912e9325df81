"""Networks of a few thousand parameters, for tests."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from livetalk.models.audio_projection import AudioProjectionConfig
from livetalk.models.dit import DiT, DiTConfig
from livetalk.models.vae import CausalVideoVAE, VAEConfig
from livetalk.streaming.executor import Executor
from livetalk.streaming.geometry import ChunkGeometry
from livetalk.streaming.networks import Networks
from livetalk.streaming.settings import AudioConfig, ReferenceLayout, SamplerConfig, StreamSettings

LATENT_CHANNELS = 4
IMAGE_SIDE = 16
TEXT_DIM = 10
IMAGE_DIM = 14

AUDIO = AudioProjectionConfig(num_blocks=1, channels=6, hidden_dim=8, context_tokens=2, output_dim=8)
DIT = DiTConfig(
    dim=24,
    ffn_dim=48,
    num_heads=2,
    num_layers=2,
    in_channels=4 + 2 * LATENT_CHANNELS,
    out_channels=LATENT_CHANNELS,
    freq_dim=16,
    text_len=5,
    audio=AUDIO,
)
DIT_WITH_PROMPT = replace(DIT, text_dim=TEXT_DIM, image_dim=IMAGE_DIM)
VAE = VAEConfig(
    base_dim=4,
    latent_channels=LATENT_CHANNELS,
    dim_multipliers=(1, 2, 3),
    num_res_blocks=1,
    temporal_downsample=(True, True),
    latents_mean=(0.1, -0.2, 0.3, 0.0),
    latents_std=(1.5, 0.5, 1.0, 2.0),
)
VAE_PATCHED = replace(VAE, patch_size=2, temporal_kernels=(1, 1, 3))


def randomize(network: torch.nn.Module, seed: int = 0) -> None:
    """Replace every parameter by noise, so that no branch is zero and no norm is the identity."""
    rng = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        noise = torch.randn(parameter.shape, generator=rng)
        scale = 0.3 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
        parameter.data.copy_(noise * scale + (1.0 if parameter.ndim == 1 else 0.0))


def tiny_dit(config: DiTConfig = DIT) -> DiT:
    """Build a transformer with random weights."""
    dit = DiT(config).eval()
    randomize(dit)
    return dit


def tiny_vae(config: VAEConfig = VAE) -> CausalVideoVAE:
    """Build a VAE with random weights."""
    vae = CausalVideoVAE(config).eval()
    randomize(vae)
    return vae


@dataclass
class FrameEncoder:
    """Speech encoder whose row for a frame depends on that frame's 640 samples only."""

    num_blocks: int = 1
    channels: int = 6

    def __call__(self, samples: Tensor) -> Tensor:
        """Project fixed chunks of each frame's samples: `[B, samples // 640, num_blocks, channels]`."""
        frames = samples[:, : samples.shape[1] // 640 * 640].reshape(samples.shape[0], -1, 640)
        rng = torch.Generator().manual_seed(7)
        weight = torch.randn(640, self.num_blocks * self.channels, generator=rng) / 25
        return (frames @ weight).reshape(*frames.shape[:2], self.num_blocks, self.channels)


class TinyModel(NamedTuple):
    """What the functions of a stream take first: `generate_chunk(*model, ...)`."""

    executor: Executor
    settings: StreamSettings

    def with_networks(self, **changes: Any) -> "TinyModel":
        """Return the model with other networks."""
        networks = replace(self.executor.networks, **changes)
        return self._replace(executor=replace(self.executor, networks=networks))


def tiny_model(
    *,
    dit: DiTConfig = DIT,
    sampler: SamplerConfig | None = None,
    layout: ReferenceLayout = ReferenceLayout.FIRST_FRAME,
    lookahead_frames: int = 0,
    latents_per_decode: int | None = None,
    decode_dropped: bool = True,
    vae: VAEConfig = VAE,
) -> TinyModel:
    """Build everything a stream needs, with a window of 13 = 5 + 8 frames and 2 s of audio."""
    settings = StreamSettings(
        geometry=ChunkGeometry(window_frames=13),
        audio=AudioConfig(buffer_seconds=2, lookahead_frames=lookahead_frames),
        sampler=sampler or SamplerConfig(num_steps=2),
        reference_layout=layout,
        latents_per_decode=latents_per_decode,
        decode_dropped=decode_dropped,
    )
    networks = Networks(dit=tiny_dit(dit), vae=tiny_vae(vae), audio_encoder=FrameEncoder())
    return TinyModel(Executor(networks=networks), settings)


def dit_inputs(config: DiTConfig = DIT, batch: int = 1, seed: int = 1) -> tuple[Tensor | None, ...]:
    """Draw arguments for a transformer: 3 latent frames of 4 x 6."""
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=rng)

    audio = config.audio
    return (
        draw(config.out_channels, 3, 4, 6),
        torch.rand(batch, generator=rng) * 1000,
        draw(config.in_channels - config.out_channels, 3, 4, 6),
        draw(9, audio.window, audio.num_blocks, audio.channels),
        None if config.text_dim is None else draw(3, config.text_dim),
        None if config.image_dim is None else draw(7, config.image_dim),
    )
