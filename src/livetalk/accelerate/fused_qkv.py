"""Queries, keys and values of self-attention from one matrix product.

Shapes: B batch · L video tokens · D model width.
"""

import torch
from torch import Tensor, nn

from livetalk.models.dit import DiT
from livetalk.models.dit_blocks import DiTBlock, SelfAttention
from livetalk.models.dit_tokens import split_heads
from livetalk.ops.rope import RopeTables, apply_rope


class FusedSelfAttention(nn.Module):
    """Self-attention whose three input projections are one layer; the results are those of three layers."""

    def __init__(self, attention: SelfAttention, qkv: nn.Module) -> None:
        """Take over the modules of `attention`, with `qkv` in place of its three input projections."""
        super().__init__()
        self.num_heads = attention.num_heads
        self.qkv = qkv
        self.norm_q = attention.norm_q
        self.norm_k = attention.norm_k
        self.core = attention.core
        self.out = attention.out

    def forward(self, x_BLD: Tensor, rope: RopeTables) -> Tensor:
        q, k, v = self.qkv(x_BLD).chunk(3, dim=-1)
        q = apply_rope(split_heads(self.norm_q(q), self.num_heads), rope)
        k = apply_rope(split_heads(self.norm_k(k), self.num_heads), rope)
        y: Tensor = self.out(self.core(q, k, split_heads(v, self.num_heads)).flatten(2))
        return y


def fuse_qkv(dit: DiT) -> DiT:
    """Join the query, key and value projections of every block, and return `dit`.

    Call this after loading and before quantisation, placement and parallelism. In the state dict `qkv`
    replaces `q`, `k` and `v`. Blocks whose projections are not plain linear layers are skipped.
    """
    for layer in dit.blocks.layers:
        assert isinstance(layer, DiTBlock)
        attention: nn.Module = layer.self_attention
        if isinstance(attention, SelfAttention) and all(
            type(part) is nn.Linear for part in (attention.q, attention.k, attention.v)
        ):
            # One block at a time, so that only its projections are in memory twice.
            qkv = _stack((attention.q, attention.k, attention.v))
            layer.add_module("self_attention", FusedSelfAttention(attention, qkv))
    return dit


def _stack(layers: tuple[nn.Linear, ...]) -> nn.Linear:
    """Concatenate the outputs of several linear layers into one layer."""
    weight = torch.cat([layer.weight.detach() for layer in layers])
    # Built on the meta device, so that no memory is allocated for weights that are replaced at once.
    fused = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    learned = layers[0].weight.requires_grad
    fused.weight = nn.Parameter(weight, requires_grad=learned)
    fused.bias = nn.Parameter(torch.cat([layer.bias.detach() for layer in layers]), requires_grad=learned)
    return fused
