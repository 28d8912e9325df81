"""Projection of speech features around each frame to context tokens per latent frame.

Shapes: B batch · F frames · T latent frames · S context tokens · D token width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from livetalk.ops.norm import LayerNorm

NORM_EPS = 1e-5


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioProjectionConfig:
    """Sizes of the audio projection."""

    window: int = 5  # speech frames read around each video frame; odd
    num_blocks: int = 12  # layers of the speech encoder that are stacked
    channels: int = 768  # width of each layer
    hidden_dim: int = 512
    context_tokens: int = 32  # tokens per latent frame
    output_dim: int = 768
    latent_stride: int = 4  # video frames per latent frame (all but the first)

    def __post_init__(self) -> None:
        if self.window % 2 == 0 or self.window < 1:
            raise ValueError(f"window must be odd, got {self.window}")
        if self.latent_stride < 2:
            raise ValueError(f"latent_stride must be at least 2, got {self.latent_stride}")

    @property
    def group_window(self) -> int:
        """Speech frames read for a latent frame that stands for `latent_stride` frames."""
        return 2 * (self.window // 2 + 1) + self.latent_stride - 2


class AudioProjection(nn.Module):
    """Projects per-frame speech windows to context tokens per latent frame.

    The first latent frame represents one video frame and reads its whole window. Each later one represents a
    group of frames: it reads the past half of the first window, the centres of the middle ones and the future
    half of the last.
    """

    def __init__(self, config: AudioProjectionConfig) -> None:
        super().__init__()
        self.config = config
        features = config.num_blocks * config.channels
        self.first_in = nn.Linear(config.window * features, config.hidden_dim)
        self.group_in = nn.Linear(config.group_window * features, config.hidden_dim)
        self.hidden = nn.Linear(config.hidden_dim, config.hidden_dim)
        self.out = nn.Linear(config.hidden_dim, config.context_tokens * config.output_dim)
        self.norm = LayerNorm(config.output_dim, eps=NORM_EPS)

    def forward(self, audio_context: Tensor) -> Tensor:
        """Project `[B, F, window, num_blocks, channels]` to `[B, T, S, D]`, F = 1 + stride * (T - 1)."""
        cfg = self.config
        expected = (cfg.window, cfg.num_blocks, cfg.channels)
        if tuple(audio_context.shape[2:]) != expected or (audio_context.shape[1] - 1) % cfg.latent_stride:
            raise ValueError(
                f"audio_context must be [B, 1 + {cfg.latent_stride} * n, {', '.join(map(str, expected))}], "
                f"got {list(audio_context.shape)}"
            )
        first = self.first_in(audio_context[:, :1].flatten(2))
        hidden = torch.cat((first, self.group_in(self._group(audio_context[:, 1:]))), dim=1)
        tokens: Tensor = self.out(self.hidden(hidden.relu()).relu())
        tokens = tokens.reshape(*tokens.shape[:2], cfg.context_tokens, cfg.output_dim)
        normed: Tensor = self.norm(tokens)
        return normed

    def _group(self, later: Tensor) -> Tensor:
        """Gather the inputs of each group: `[B, F - 1, W, ...] -> [B, T - 1, group_window * ...]`."""
        centre = self.config.window // 2
        groups = later.reshape(later.shape[0], -1, self.config.latent_stride, *later.shape[2:])
        parts = (groups[:, :, 0, : centre + 1], groups[:, :, 1:-1, centre], groups[:, :, -1, centre:])
        return torch.cat(parts, dim=2).flatten(2)
