"""Audio-conditioned video diffusion transformer.

Shapes: B batch · C channels · F frames · T latent frames · H W height, width of latents ·
L video tokens · S context tokens · D model width.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from livetalk.models.audio_projection import AudioProjection, AudioProjectionConfig
from livetalk.models.dit_blocks import BlockConfig, BlockStack
from livetalk.models.dit_context import BlockConditioning, ContextTokens, StackConditioning
from livetalk.models.dit_speech import SpeechTokens
from livetalk.ops.norm import LayerNorm, modulate
from livetalk.ops.rope import RopeTables, axis_widths, grid_positions, rope_tables

IMAGE_NORM_EPS = 1e-5
EMBEDDING_STD = 0.02
MAX_PERIOD = 10_000.0


@dataclass(frozen=True, kw_only=True, slots=True)
class DiTConfig:
    """Sizes of the transformer.

    Attributes:
        audio: sizes of the audio projection.
    """

    dim: int
    ffn_dim: int
    num_heads: int  # attention heads; D / num_heads is even
    num_layers: int
    in_channels: int  # channels of the latents and the condition together
    out_channels: int  # channels of the velocity
    patch_size: tuple[int, int, int] = (1, 2, 2)  # latent frames, rows and columns in one token
    freq_dim: int = 256  # width of the sinusoidal time embedding; even
    text_dim: int | None = None  # width of the text embeddings; None leaves the text branch out
    text_len: int = 512  # text embeddings are zero-padded to this many rows
    image_dim: int | None = None  # width of the image embeddings; None leaves the image branch out
    eps: float = 1e-6
    audio: AudioProjectionConfig = field(default_factory=AudioProjectionConfig)

    def __post_init__(self) -> None:
        if self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} is not a multiple of num_heads {self.num_heads}")
        axis_widths(self.head_dim)
        if self.freq_dim % 2:
            raise ValueError(f"freq_dim must be even, got {self.freq_dim}")

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads


class StepInputs(NamedTuple):
    """All inputs of a step except the latents; `dit_precompute` computes them ahead."""

    condition_patches: Tensor  # `[B, L, C' * patch]`, patches of the condition
    rope: RopeTables
    frame_ids: Tensor  # `[L]` int64, the latent frame of each token
    time: Tensor  # `[B, D]` or `[1, D]` float32, the time embedding
    modulation: Tensor  # `[B, 6, D]` or `[1, 6, D]` float32
    conditioning: BlockConditioning | StackConditioning


class DiT(nn.Module):
    """Predicts the velocity (noise - x0) of a window of latents from speech, a reference and text."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        patch = math.prod(config.patch_size)
        self.patch_embedding = nn.Linear(config.in_channels * patch, config.dim)
        self.time_embedding = TimeEmbedding(config.freq_dim, config.dim)
        self.text_projection: nn.Sequential | None = None
        if config.text_dim is not None:
            self.text_projection = nn.Sequential(
                nn.Linear(config.text_dim, config.dim),
                nn.GELU(approximate="tanh"),
                nn.Linear(config.dim, config.dim),
            )
        self.image_projection: nn.Sequential | None = None
        if config.image_dim is not None:
            self.image_projection = nn.Sequential(
                LayerNorm(config.image_dim, eps=IMAGE_NORM_EPS),
                nn.Linear(config.image_dim, config.image_dim),
                nn.GELU(),
                nn.Linear(config.image_dim, config.dim),
                LayerNorm(config.dim, eps=IMAGE_NORM_EPS),
            )
        self.audio_projection = AudioProjection(config.audio)
        block = BlockConfig(
            dim=config.dim,
            ffn_dim=config.ffn_dim,
            num_heads=config.num_heads,
            eps=config.eps,
            text=config.text_dim is not None,
            image=config.image_dim is not None,
            audio_dim=config.audio.output_dim,
        )
        self.blocks = BlockStack(block, config.num_layers)
        self.head = Head(config.dim, config.out_channels * patch, config.eps)
        self.init_weights()

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        condition: Tensor,
        audio_context: Tensor,
        text_embeds: Tensor | None = None,
        image_embeds: Tensor | None = None,
        prepared: StepInputs | None = None,
    ) -> Tensor:
        """Predict a velocity.

        Args:
            latents: `[B, C, T, H, W]`, clean motion latents already written in.
            timesteps: `[B]` float32, 0..1000 (1000 * sigma); one for all latent frames of a sample.
            condition: `[B, C', T, H, W]`, the reference mask and latents; C + C' = `in_channels`.
            audio_context: `[B, F, window, num_blocks, channels]`, F = 1 + stride * (T - 1).
            text_embeds: `[B, S, text_dim]`, S <= `text_len`; needed with a text branch.
            image_embeds: `[B, S, image_dim]`; needed with an image branch.
            prepared: precomputed from all arguments but the latents; they are then ignored.

        Returns:
            `[B, out_channels, T, H, W]` float32.

        Raises:
            ValueError: a shape does not fit, or an embedding is missing or has no branch.
        """
        grid = self.token_grid(latents, condition, text_embeds, image_embeds)
        if prepared is None:
            time, modulation = self.time_embedding(timesteps)
            positions = grid_positions(*grid, device=latents.device)
            prepared = StepInputs(
                condition_patches=self.patchify(condition),
                rope=rope_tables(positions, self.config.head_dim),
                frame_ids=positions[:, 0],
                time=time,
                modulation=modulation,
                conditioning=self._project_conditioning(grid, audio_context, text_embeds, image_embeds),
            )
        patches = torch.cat((self.patchify(latents), prepared.condition_patches), dim=-1)
        tokens = self.patch_embedding(patches).to(self.dtype)
        tokens = self.blocks(
            tokens, prepared.rope, prepared.frame_ids, prepared.modulation, prepared.conditioning
        )
        return self._unpatchify(self.head(tokens, prepared.time), grid)

    def _project_conditioning(
        self, grid: tuple[int, int, int], audio_context: Tensor, text: Tensor | None, image: Tensor | None
    ) -> BlockConditioning:
        return BlockConditioning(
            speech=SpeechTokens(self.project_audio(audio_context)),
            text=None if text is None else ContextTokens(self.project_text(self.pad_text(text))),
            image=None if image is None else ContextTokens(self.project_image(image)),
            frame_lengths=(grid[1] * grid[2],) * grid[0],
        )

    def init_weights(self) -> None:
        """Initialise for training; the first velocity is 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        embeddings: list[nn.Module] = [self.time_embedding.mlp]
        if self.text_projection is not None:
            embeddings.append(self.text_projection)
        for embedding in embeddings:
            for module in embedding.modules():
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=EMBEDDING_STD)
        for name, parameter in self.named_parameters():
            if name.endswith("modulation"):
                nn.init.normal_(parameter, std=self.config.dim**-0.5)
        # A zero head makes the first prediction independent of the random blocks.
        nn.init.zeros_(self.head.linear.weight)

    @property
    def dtype(self) -> torch.dtype:
        return self.patch_embedding.weight.dtype

    def token_grid(
        self, latents: Tensor, condition: Tensor, text: Tensor | None, image: Tensor | None
    ) -> tuple[int, int, int]:
        """Check the inputs and return the token grid (time, rows, columns)."""
        cfg = self.config
        if latents.shape[0] != condition.shape[0] or latents.shape[2:] != condition.shape[2:]:
            raise ValueError(
                f"latents {list(latents.shape)} and condition {list(condition.shape)} do not match"
            )
        channels = latents.shape[1] + condition.shape[1]
        if channels != cfg.in_channels:
            raise ValueError(
                f"latents and condition have {channels} channels, the network takes {cfg.in_channels}"
            )
        if any(size % patch for size, patch in zip(latents.shape[2:], cfg.patch_size, strict=True)):
            raise ValueError(
                f"latents {list(latents.shape)} are not a multiple of the patch {cfg.patch_size}"
            )
        if (text is None) != (cfg.text_dim is None) or (image is None) != (cfg.image_dim is None):
            raise ValueError(
                "text_embeds and image_embeds must be given exactly when the network has their branch"
            )
        frames, rows, columns = (
            size // patch for size, patch in zip(latents.shape[2:], cfg.patch_size, strict=True)
        )
        return frames, rows, columns

    def patchify(self, x: Tensor) -> Tensor:
        """Cut latents or the condition `[B, C, T, H, W]` into patches `[B, L, C * patch]` of `dtype`."""
        pt, ph, pw = self.config.patch_size
        b, c, t, h, w = x.shape
        x = x.to(self.dtype).reshape(b, c, t // pt, pt, h // ph, ph, w // pw, pw)
        return x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)

    def _unpatchify(self, tokens: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Invert `patchify`: `[B, L, patch * out_channels]` to `[B, out_channels, T, H, W]`."""
        pt, ph, pw = self.config.patch_size
        x = tokens.reshape(tokens.shape[0], *grid, pt, ph, pw, self.config.out_channels)
        return x.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6).flatten(4, 5).flatten(2, 3)

    def project_audio(self, audio_context: Tensor) -> Tensor:
        tokens: Tensor = self.audio_projection(audio_context.to(self.dtype))
        return tokens

    def pad_text(self, text_embeds: Tensor) -> Tensor:
        """Zero-pad text embeddings to `[B, text_len, text_dim]`."""
        # The padding is projected and attended to like text, as in training.
        return F.pad(text_embeds, (0, 0, 0, self.config.text_len - text_embeds.shape[1]))

    def project_text(self, text_embeds: Tensor) -> Tensor:
        assert self.text_projection is not None
        tokens: Tensor = self.text_projection(text_embeds.to(self.dtype))
        return tokens

    def project_image(self, image_embeds: Tensor) -> Tensor:
        assert self.image_projection is not None
        tokens: Tensor = self.image_projection(image_embeds.to(self.dtype))
        return tokens


class TimeEmbedding(nn.Module):
    """Embedding of the timestep for the head, and six modulation vectors for the blocks, in float32."""

    def __init__(self, freq_dim: int, dim: int) -> None:
        super().__init__()
        self.freq_dim = freq_dim
        self.mlp = nn.Sequential(nn.Linear(freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.modulation_out = nn.Linear(dim, 6 * dim)

    def forward(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embedding `[B, D]` and the modulation `[B, 6, D]` of timesteps `[B]`."""
        x = sinusoids(timesteps, self.freq_dim)
        first, last = self.mlp[0], self.mlp[2]
        embedding = linear_float32(last, F.silu(linear_float32(first, x)))
        modulation = linear_float32(self.modulation_out, F.silu(embedding))
        return embedding, modulation.reshape(modulation.shape[0], 6, -1)


class Head(nn.Module):
    """Modulated projection of tokens to patches of velocity, in float32."""

    def __init__(self, dim: int, out_dim: int, eps: float) -> None:
        super().__init__()
        self.modulation = nn.Parameter(torch.zeros(1, 2, dim))
        self.norm = LayerNorm(dim, eps=eps, elementwise_affine=False)
        self.linear = nn.Linear(dim, out_dim)

    def forward(self, tokens: Tensor, time: Tensor) -> Tensor:
        """Return `[B, L, out_dim]` float32 from tokens `[B, L, D]` and the time embedding `[B, D]`."""
        shift, scale = (self.modulation.float() + time[:, None]).chunk(2, dim=1)
        return linear_float32(self.linear, modulate(self.norm(tokens), shift, scale))


def sinusoids(timesteps: Tensor, dim: int) -> Tensor:
    """Embed timesteps `[B]` as cosines, then sines, of falling frequency: `[B, dim]` float32."""
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float64, device=timesteps.device) / half
    angles = torch.outer(timesteps.double(), MAX_PERIOD**-exponents)
    return torch.cat((angles.cos(), angles.sin()), dim=1).float()


def linear_float32(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a linear layer in float32 for any dtype of its weights, also under autocast."""
    assert isinstance(layer, nn.Linear)
    # Autocast does not support the meta device, on which dry runs count memory.
    with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):
        return F.linear(x, layer.weight.float(), layer.bias.float())
