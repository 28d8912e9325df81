"""Blocks of the diffusion transformer.

Shapes: B batch · T latent frames · L video tokens · S context tokens · N heads · E head width ·
D model width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from livetalk.models.dit_context import (
    AbsorbedAudio,
    AudioContext,
    AudioToAbsorb,
    BlockConditioning,
    Context,
    FrameRun,
    KeysValues,
    StackConditioning,
    WeightedTokens,
    absorb_audio,
    frame_runs,
    join_runs,
    rebase_runs,
    split_heads,
)
from livetalk.ops.attention import AttentionCore
from livetalk.ops.norm import LayerNorm, RMSNorm, add_gated, modulate
from livetalk.ops.rope import RopeTables, apply_rope


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockConfig:
    """Sizes of one block.

    Attributes:
        dim: model width D.
        ffn_dim: hidden width of the feed-forward layer.
        num_heads: attention heads N; E = D / N.
        eps: of every norm.
        text: attend to text tokens.
        image: attend to image tokens.
        audio_dim: width of the audio context tokens.
    """

    dim: int
    ffn_dim: int
    num_heads: int
    eps: float
    text: bool
    image: bool
    audio_dim: int


class SelfAttention(nn.Module):
    """Full attention between all tokens of a window, with rotary positions."""

    def __init__(self, config: BlockConfig) -> None:
        """Build the projections and the q/k norms, which span all heads."""
        super().__init__()
        self.num_heads = config.num_heads
        self.q = nn.Linear(config.dim, config.dim)
        self.k = nn.Linear(config.dim, config.dim)
        self.v = nn.Linear(config.dim, config.dim)
        self.norm_q = RMSNorm(config.dim, config.eps)
        self.norm_k = RMSNorm(config.dim, config.eps)
        self.core = AttentionCore()
        self.out = nn.Linear(config.dim, config.dim)

    def forward(self, x_BLD: Tensor, rope: RopeTables) -> Tensor:
        """Return `[B, L, D]`."""
        q = apply_rope(split_heads(self.norm_q(self.q(x_BLD)), self.num_heads), rope)
        k = apply_rope(split_heads(self.norm_k(self.k(x_BLD)), self.num_heads), rope)
        y: Tensor = self.out(self.core(q, k, split_heads(self.v(x_BLD), self.num_heads)).flatten(2))
        return y


class ContextBranch(nn.Module):
    """Keys and values of one kind of context (text or image)."""

    def __init__(self, config: BlockConfig) -> None:
        """Build the key and value projections."""
        super().__init__()
        self.num_heads = config.num_heads
        self.k = nn.Linear(config.dim, config.dim)
        self.v = nn.Linear(config.dim, config.dim)
        self.norm_k = RMSNorm(config.dim, config.eps)

    def forward(self, context: Context) -> KeysValues:
        """Return the keys and values of context tokens `[B, S, D]`; those that are made already pass."""
        if isinstance(context, KeysValues):
            return context
        tokens, bias = context if isinstance(context, WeightedTokens) else WeightedTokens(context)
        keys = split_heads(self.norm_k(self.k(tokens)), self.num_heads)
        return KeysValues(keys, split_heads(self.v(tokens), self.num_heads), bias)


class ContextAttention(nn.Module):
    """Attend to text and to image tokens apart, and add the two results before the output projection."""

    def __init__(self, config: BlockConfig) -> None:
        """Build the branches that `config` names; at least one."""
        super().__init__()
        self.num_heads = config.num_heads
        self.q = nn.Linear(config.dim, config.dim)
        self.norm_q = RMSNorm(config.dim, config.eps)
        self.text = ContextBranch(config) if config.text else None
        self.image = ContextBranch(config) if config.image else None
        self.core = AttentionCore()
        self.out = nn.Linear(config.dim, config.dim)

    def forward(self, x_BLD: Tensor, text: Context | None, image: Context | None) -> Tensor:
        """Return `[B, L, D]`; a branch that was not built ignores its context."""
        q = split_heads(self.norm_q(self.q(x_BLD)), self.num_heads)
        total: Tensor | None = None
        for branch, context in ((self.text, text), (self.image, image)):
            if branch is not None:
                keys, values, bias = branch(context)
                y = self.core(q, keys, values, bias).flatten(2)
                total = y if total is None else total + y
        projected: Tensor = self.out(total)
        return projected


class AudioAttention(nn.Module):
    """Attention of each latent frame's tokens to that frame's speech tokens."""

    def __init__(self, config: BlockConfig) -> None:
        """Build the projections; there is neither q/k norm nor rotation here."""
        super().__init__()
        self.num_heads = config.num_heads
        self.q = nn.Linear(config.dim, config.dim)
        self.kv = nn.Linear(config.audio_dim, 2 * config.dim)
        self.core = AttentionCore()
        self.out = nn.Linear(config.dim, config.dim)

    def forward(
        self,
        x_BLD: Tensor,
        frame_ids: Tensor,
        audio: AudioContext,
        frame_lengths: tuple[int, ...] | None = None,
    ) -> Tensor:
        """Attend frame by frame.

        Args:
            x_BLD: video tokens.
            frame_ids: `[L]` integers, the latent frame of each token.
            audio: speech tokens `[B, T, S, audio_dim]`, or what is made of them.
            frame_lengths: how many tokens of each latent frame there are, one frame after the other; None, or
                lengths that do not add up to L, have every token find its frame by `frame_ids`.

        Returns:
            `[B, L, D]`.

        Raises:
            ValueError: absorbed speech, without lengths that add up to L.
        """
        runs = frame_runs(frame_lengths, x_BLD.shape[1])
        if isinstance(audio, AudioToAbsorb):
            context = self.keys_values(audio.context).of_runs(runs)
            audio, runs = absorb_audio(self.q, self.out, context), rebase_runs(runs)
        if isinstance(audio, AbsorbedAudio):
            return audio.attend(x_BLD, runs)
        keys, values, _ = self.keys_values(audio)
        q = split_heads(self.q(x_BLD), self.num_heads)
        if runs is None:
            y = self._attend_masked(q, frame_ids, keys, values)
        else:
            y = join_runs([self._attend_run(q, keys, values, run) for run in runs])
        projected: Tensor = self.out(y.flatten(2))
        return projected

    def keys_values(self, audio: Tensor | KeysValues) -> KeysValues:
        """Return keys and values `[B, T, S, N, E]` of speech tokens; those that are made already pass."""
        if isinstance(audio, KeysValues):
            return audio
        keys, values = (split_heads(x, self.num_heads) for x in self.kv(audio).chunk(2, dim=-1))
        return KeysValues(keys, values)

    def _attend_run(self, q_BLNE: Tensor, keys: Tensor, values: Tensor, run: FrameRun) -> Tensor:
        frames = slice(run.first_frame, run.first_frame + run.num_frames)
        k, v = keys[:, frames].flatten(0, 1), values[:, frames].flatten(0, 1)
        y: Tensor = self.core(run.split(q_BLNE).flatten(0, 1), k, v)
        return y.reshape(q_BLNE.shape[0], -1, *y.shape[2:])

    def _attend_masked(self, q_BLNE: Tensor, frame_ids: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        num_frames, num_context = keys.shape[1:3]
        context_ids = torch.arange(num_frames, device=frame_ids.device).repeat_interleave(num_context)
        mask = frame_ids[:, None] == context_ids
        y: Tensor = self.core(q_BLNE, keys.flatten(1, 2), values.flatten(1, 2), mask)
        return y


class FeedForward(nn.Sequential):
    """Two linear layers around a tanh GELU."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        """Widen `dim` to `hidden_dim` and back."""
        super().__init__(nn.Linear(dim, hidden_dim), nn.GELU(approximate="tanh"), nn.Linear(hidden_dim, dim))


class DiTBlock(nn.Module):
    """Self-attention, text and image attention, audio attention, feed-forward."""

    def __init__(self, config: BlockConfig) -> None:
        """Build one block; without text and image the attention to them and its norm do not exist."""
        super().__init__()
        self.modulation = nn.Parameter(torch.zeros(1, 6, config.dim))
        self.self_norm = LayerNorm(config.dim, eps=config.eps, elementwise_affine=False)
        self.self_attention = SelfAttention(config)
        self.context_norm: LayerNorm | None = None
        self.context_attention: ContextAttention | None = None
        if config.text or config.image:
            self.context_norm = LayerNorm(config.dim, eps=config.eps)
            self.context_attention = ContextAttention(config)
        self.audio_norm = LayerNorm(config.dim, eps=config.eps)
        self.audio_attention = AudioAttention(config)
        self.ffn_norm = LayerNorm(config.dim, eps=config.eps, elementwise_affine=False)
        self.ffn = FeedForward(config.dim, config.ffn_dim)

    def forward(
        self,
        tokens: Tensor,
        rope: RopeTables,
        frame_ids: Tensor,
        modulation: Tensor,
        conditioning: BlockConditioning,
    ) -> Tensor:
        """Return `[B, L, D]` in the dtype of `tokens`; the arguments are those of `BlockStack`."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation.float() + modulation).chunk(6, dim=1)
        x = modulate(self.self_norm(tokens), shift1, scale1).type_as(tokens)
        tokens = add_gated(tokens, self.self_attention(x, rope), gate1)
        if self.context_attention is not None and self.context_norm is not None:
            x = self.context_norm(tokens)
            tokens = tokens + self.context_attention(x, conditioning.text, conditioning.image)
        x = self.audio_norm(tokens)
        tokens = tokens + self.audio_attention(x, frame_ids, conditioning.audio, conditioning.frame_lengths)
        x = modulate(self.ffn_norm(tokens), shift2, scale2).type_as(tokens)
        return add_gated(tokens, self.ffn(x), gate2)


class BlockStack(nn.Module):
    """All blocks. Every per-token fact enters here, so that one hook can slice all of them together.

    Attributes:
        layers: the blocks.
    """

    def __init__(self, config: BlockConfig, num_layers: int) -> None:
        """Build `num_layers` equal blocks."""
        super().__init__()
        self.layers = nn.ModuleList(DiTBlock(config) for _ in range(num_layers))

    def forward(
        self,
        tokens: Tensor,
        rope: RopeTables,
        frame_ids: Tensor,
        modulation: Tensor,
        conditioning: BlockConditioning | StackConditioning,
    ) -> Tensor:
        """Run the blocks in order.

        Args:
            tokens: `[B, L, D]`.
            rope: rotary tables of the L tokens.
            frame_ids: `[L]` int64, the latent frame of each token.
            modulation: `[B, 6, D]` float32, from the timestep.
            conditioning: what the tokens attend to, for all blocks or for each.

        Returns:
            `[B, L, D]` in the dtype of `tokens`.
        """
        for index, layer in enumerate(self.layers):
            tokens = layer(tokens, rope, frame_ids, modulation, conditioning.of_layer(index))
        return tokens
