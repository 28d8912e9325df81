"""Blocks of the diffusion transformer.

Shapes: B batch · L video tokens · S context tokens · N heads · E head width · D model width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from livetalk.models.dit_context import (
    BlockConditioning,
    Context,
    ContextTokens,
    KeysValues,
    StackConditioning,
)
from livetalk.models.dit_speech import AudioAttention
from livetalk.models.dit_tokens import split_heads
from livetalk.ops.attention import AttentionCore
from livetalk.ops.norm import LayerNorm, RMSNorm, add_gated, modulate
from livetalk.ops.rope import RopeTables, apply_rope


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockConfig:
    """Sizes of one block."""

    dim: int
    ffn_dim: int
    num_heads: int  # attention heads N; E = D / N
    eps: float
    text: bool
    image: bool
    audio_dim: int  # width of the audio context tokens


class SelfAttention(nn.Module):
    """Full attention between all tokens of a window, with rotary positions."""

    def __init__(self, config: BlockConfig) -> None:
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
        q = apply_rope(split_heads(self.norm_q(self.q(x_BLD)), self.num_heads), rope)
        k = apply_rope(split_heads(self.norm_k(self.k(x_BLD)), self.num_heads), rope)
        y: Tensor = self.out(self.core(q, k, split_heads(self.v(x_BLD), self.num_heads)).flatten(2))
        return y


class ContextBranch(nn.Module):
    """Keys and values of one kind of context (text or image)."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.k = nn.Linear(config.dim, config.dim)
        self.v = nn.Linear(config.dim, config.dim)
        self.norm_k = RMSNorm(config.dim, config.eps)

    def forward(self, context: ContextTokens) -> KeysValues:
        keys = split_heads(self.norm_k(self.k(context.tokens)), self.num_heads)
        return KeysValues(keys, split_heads(self.v(context.tokens), self.num_heads), context.bias)


class ContextAttention(nn.Module):
    """Attention to text and to image tokens separately, summed before the output projection."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q = nn.Linear(config.dim, config.dim)
        self.norm_q = RMSNorm(config.dim, config.eps)
        self.text = ContextBranch(config) if config.text else None
        self.image = ContextBranch(config) if config.image else None
        self.core = AttentionCore()
        self.out = nn.Linear(config.dim, config.dim)

    def forward(self, x_BLD: Tensor, text: Context | None, image: Context | None) -> Tensor:
        """Return `[B, L, D]`; context without a branch is ignored."""
        q = split_heads(self.norm_q(self.q(x_BLD)), self.num_heads)
        total: Tensor | None = None
        for branch, context in ((self.text, text), (self.image, image)):
            if branch is not None:
                assert context is not None
                keys, values, bias = context.keys_values(branch)
                y = self.core(q, keys, values, bias).flatten(2)
                total = y if total is None else total + y
        projected: Tensor = self.out(total)
        return projected


class FeedForward(nn.Sequential):
    """Two linear layers around a tanh GELU."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__(nn.Linear(dim, hidden_dim), nn.GELU(approximate="tanh"), nn.Linear(hidden_dim, dim))


class DiTBlock(nn.Module):
    """Self-attention, text and image attention, audio attention, feed-forward.

    Attributes:
        fast_form: computes `forward` with the block as its first argument; None for the plain form.
    """

    def __init__(self, config: BlockConfig) -> None:
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
        self.audio_attention = AudioAttention(config.dim, config.num_heads, config.audio_dim)
        self.ffn_norm = LayerNorm(config.dim, eps=config.eps, elementwise_affine=False)
        self.ffn = FeedForward(config.dim, config.ffn_dim)
        self.fast_form: nn.Module | None = None

    def forward(
        self,
        tokens: Tensor,
        rope: RopeTables,
        frame_ids: Tensor,
        modulation: Tensor,
        conditioning: BlockConditioning,
    ) -> Tensor:
        """Return `[B, L, D]` in the dtype of `tokens`; the arguments are those of `BlockStack`."""
        if self.fast_form is not None:
            fast: Tensor = self.fast_form(self, tokens, rope, frame_ids, modulation, conditioning)
            return fast
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation.float() + modulation).chunk(6, dim=1)
        x = modulate(self.self_norm(tokens), shift1, scale1).type_as(tokens)
        tokens = add_gated(tokens, self.self_attention(x, rope), gate1)
        if self.context_attention is not None and self.context_norm is not None:
            x = self.context_norm(tokens)
            tokens = tokens + self.context_attention(x, conditioning.text, conditioning.image)
        x = self.audio_norm(tokens)
        tokens = tokens + self.audio_attention(x, frame_ids, conditioning.speech, conditioning.frame_lengths)
        x = modulate(self.ffn_norm(tokens), shift2, scale2).type_as(tokens)
        return add_gated(tokens, self.ffn(x), gate2)


class BlockStack(nn.Module):
    """All blocks. All per-token inputs enter here, so that one hook can shard all of them.

    Attributes:
        layers: the blocks.
        fast_form: computes `run` with the stack as its first argument; None for `run` itself.
    """

    def __init__(self, config: BlockConfig, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DiTBlock(config) for _ in range(num_layers))
        self.fast_form: nn.Module | None = None

    def forward(
        self,
        tokens: Tensor,
        rope: RopeTables,
        frame_ids: Tensor,
        modulation: Tensor,
        conditioning: BlockConditioning | StackConditioning,
    ) -> Tensor:
        """Run the blocks in order; return `[B, L, D]` in the dtype of `tokens`.

        `rope` and `frame_ids`, `[L]` int64, belong to the L tokens; `modulation` is `[B, 6, D]` float32.
        """
        if self.fast_form is not None:
            fast: Tensor = self.fast_form(self, tokens, rope, frame_ids, modulation, conditioning)
            return fast
        return self.run(tokens, rope, frame_ids, modulation, conditioning)

    def run(
        self,
        tokens: Tensor,
        rope: RopeTables,
        frame_ids: Tensor,
        modulation: Tensor,
        conditioning: BlockConditioning | StackConditioning,
    ) -> Tensor:
        """Compute `forward` without a fast form of the stack."""
        for index, layer in enumerate(self.layers):
            tokens = layer(tokens, rope, frame_ids, modulation, conditioning.of_layer(index))
        return tokens
