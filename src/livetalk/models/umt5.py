"""umT5 text encoder: token ids -> text embeddings.

Shapes: B batch · S tokens · N heads · E head width · D model width.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from livetalk.ops.norm import RMSNorm


@dataclass(frozen=True, kw_only=True, slots=True)
class UMT5Config:
    """Sizes of a `UMT5Encoder`."""

    vocabulary: int
    dim: int
    attention_dim: int  # width of all heads together
    ffn_dim: int
    num_heads: int  # attention heads N; `attention_dim` / N is a whole number
    num_layers: int
    num_buckets: int = 32  # classes of distance between two tokens, half of them for each direction
    max_distance: int = 128  # distances from here on share the last class
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.attention_dim % self.num_heads:
            raise ValueError(
                f"attention_dim {self.attention_dim} is not a multiple of num_heads {self.num_heads}"
            )


def umt5_xxl() -> UMT5Config:
    """Return the size of the published text encoder (5.7 billion parameters, width 4096)."""
    return UMT5Config(
        vocabulary=256_384, dim=4096, attention_dim=4096, ffn_dim=10_240, num_heads=64, num_layers=24
    )


class UMT5Encoder(nn.Module):
    """Bidirectional transformer encoder; every block has its own table of relative positions."""

    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocabulary, config.dim)
        self.blocks = nn.ModuleList(UMT5Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.dim, config.eps)

    def forward(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        """Encode token ids `[B, S]` to `[B, S, D]`; `mask`, `[B, S]`, is nonzero on tokens, 0 on padding.

        The result is in the dtype of the weights; rows of padding are zero.
        """
        return self.encode_padded(token_ids, mask).masked_fill(~mask.bool()[..., None], 0)

    def encode_padded(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        """Compute `forward` without zeroing the rows of padding."""
        cfg = self.config
        x = self.token_embedding(token_ids)
        buckets = distance_buckets(token_ids.shape[1], cfg.num_buckets, cfg.max_distance).to(x.device)
        # Padding is masked as keys; its rows are computed but not used.
        hidden = ~mask.bool()[:, None, None]
        for block in self.blocks:
            x = block(x, buckets, hidden)
        y: Tensor = self.norm(x)
        return y


class UMT5Block(nn.Module):
    """Self-attention with a learned bias by distance, then a gated feed-forward layer."""

    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.attention_norm = RMSNorm(config.dim, config.eps)
        self.q = nn.Linear(config.dim, config.attention_dim, bias=False)
        self.k = nn.Linear(config.dim, config.attention_dim, bias=False)
        self.v = nn.Linear(config.dim, config.attention_dim, bias=False)
        self.out = nn.Linear(config.attention_dim, config.dim, bias=False)
        self.position_bias = nn.Embedding(config.num_buckets, config.num_heads)
        self.ffn_norm = RMSNorm(config.dim, config.eps)
        self.ffn_gate = nn.Linear(config.dim, config.ffn_dim, bias=False)
        self.ffn_in = nn.Linear(config.dim, config.ffn_dim, bias=False)
        self.ffn_out = nn.Linear(config.ffn_dim, config.dim, bias=False)

    def forward(self, x_BSD: Tensor, buckets_SS: Tensor, hidden: Tensor) -> Tensor:
        """Return `[B, S, D]`; `hidden`, `[B, 1, 1, S]` bool, is true on masked keys."""
        x = x_BSD + self._attend(self.attention_norm(x_BSD), buckets_SS, hidden)
        y = self.ffn_norm(x)
        y = self.ffn_in(y) * F.gelu(self.ffn_gate(y), approximate="tanh")
        total: Tensor = x + self.ffn_out(y)
        return total

    def _attend(self, x_BSD: Tensor, buckets_SS: Tensor, hidden: Tensor) -> Tensor:
        q, k, v = (
            layer(x_BSD).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        bias = self.bias_by_distance(buckets_SS).masked_fill(hidden, torch.finfo(x_BSD.dtype).min)
        # The network was trained without the division by the root of the head width.
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        projected: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return projected

    def bias_by_distance(self, buckets_SS: Tensor) -> Tensor:
        bias: Tensor = self.position_bias(buckets_SS).permute(2, 0, 1)[None]
        return bias


def distance_buckets(length: int, num_buckets: int, max_distance: int) -> Tensor:
    """Map the distances between all pairs of tokens to buckets, `[S, S]` int64, queries by keys.

    In each direction half of the buckets are single distances; the others grow geometrically up to
    `max_distance`.
    """
    # On the CPU, because devices round logarithms differently at the bounds of buckets.
    positions = torch.arange(length, device="cpu")
    offset = positions[None, :] - positions[:, None]
    per_direction = num_buckets // 2
    exact = per_direction // 2
    distance = offset.abs()
    growth = torch.log(distance.clamp_min(exact).float() / exact) / math.log(max_distance / exact)
    far = (exact + (growth * (per_direction - exact)).long()).clamp_max(per_direction - 1)
    return torch.where(distance < exact, distance, far) + (offset > 0) * per_direction
