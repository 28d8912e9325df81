"""Queries, keys and values of self-attention from one matrix product: a change of weights from outside.

Shapes: B batch · L video tokens · D model width.
"""

import torch
from torch import Tensor, nn

from livetalk.models.dit import DiT
from livetalk.models.dit_blocks import DiTBlock, SelfAttention
from livetalk.models.dit_tokens import split_heads
from livetalk.ops.rope import RopeTables, apply_rope


class FusedSelfAttention(nn.Module):
    """Self-attention whose three input projections are one layer.

    What is quantised for the product is then quantised once; the numbers are those of three layers.
    """

    def __init__(self, attention: SelfAttention, qkv: nn.Module) -> None:
        """Take over the parts of `attention` but for its three projections, which `qkv` stands for."""
        super().__init__()
        self.num_heads = attention.num_heads
        self.qkv = qkv
        self.norm_q = attention.norm_q
        self.norm_k = attention.norm_k
        self.core = attention.core
        self.out = attention.out

    def forward(self, x_BLD: Tensor, rope: RopeTables) -> Tensor:
        """Return `[B, L, D]`."""
        q, k, v = self.qkv(x_BLD).chunk(3, dim=-1)
        q = apply_rope(split_heads(self.norm_q(q), self.num_heads), rope)
        k = apply_rope(split_heads(self.norm_k(k), self.num_heads), rope)
        y: Tensor = self.out(self.core(q, k, split_heads(v, self.num_heads)).flatten(2))
        return y


def fuse_qkv(dit: DiT) -> DiT:
    """Put the query, key and value projections of every block's self-attention into one layer.

    Comes after loading and before quantisation, placement and parallelism. The state dict changes: `q`, `k`
    and `v` become `qkv`. Blocks whose projections are no longer plain linear layers stay as they are.

    Args:
        dit: altered in place; only one block's projections are in memory twice at any time.

    Returns:
        `dit`.
    """
    for layer in dit.blocks.layers:
        assert isinstance(layer, DiTBlock)
        attention: nn.Module = layer.self_attention
        if isinstance(attention, SelfAttention) and all(
            type(part) is nn.Linear for part in (attention.q, attention.k, attention.v)
        ):
            qkv = _stack((attention.q, attention.k, attention.v))
            layer.add_module("self_attention", FusedSelfAttention(attention, qkv))
    return dit


def _stack(layers: tuple[nn.Linear, ...]) -> nn.Linear:
    """Return one layer whose output is that of several on one device, one after the other."""
    weight = torch.cat([layer.weight.detach() for layer in layers])
    fused = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    learned = layers[0].weight.requires_grad
    fused.weight = nn.Parameter(weight, requires_grad=learned)
    fused.bias = nn.Parameter(torch.cat([layer.bias.detach() for layer in layers]), requires_grad=learned)
    return fused
