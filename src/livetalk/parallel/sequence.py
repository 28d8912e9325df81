"""Sequence parallelism for the transformer: each rank holds a range of the window's tokens and all weights.

From the block stack's input to the head's output a rank computes its own tokens only. Tokens interact in
self-attention, whose core is replaced; all other layers are pointwise over tokens.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from livetalk.models.dit import DiT
from livetalk.models.dit_blocks import DiTBlock
from livetalk.models.dit_context import BlockConditioning, StackConditioning
from livetalk.models.dit_plan import TokenShare
from livetalk.ops.rope import RopeTables
from livetalk.parallel.collectives import gather
from livetalk.parallel.mesh import ParallelMesh
from livetalk.parallel.peer_memory import open_peer_memory
from livetalk.parallel.ring import PartialCore, RingAttention
from livetalk.parallel.shard import Shard
from livetalk.parallel.ulysses import UlyssesAttention

BlockInputs = tuple[Tensor, RopeTables, Tensor, Tensor, BlockConditioning | StackConditioning]


def parallelize_dit(dit: DiT, mesh: ParallelMesh) -> TokenShare:
    """Shard every forward pass over the ranks of a mesh, and return the tokens that this rank computes.

    All ranks must call the transformer with the same inputs; all receive the full velocity, bit-identical.
    Call this after quantisation and the choice of attention cores, and before compilation.

    Args:
        dit: on `mesh.device`, with the same weights on every rank; modified in place.
        mesh: the ranks. A mesh of one leaves the transformer unchanged.

    Raises:
        InputError: an axis has more ranks than there are heads.
        TypeError: there is a ring, and an attention core without log-sum-exp.
        ValueError: the transformer is already parallelized.
    """
    if mesh.world.size == 1:
        return TokenShare()
    shard = Shard(mesh.world, "tokens", dim=1)
    # Blocks run one after another, so they share the buffers.
    peers = open_peer_memory(mesh)
    for block in dit.blocks.layers:
        assert isinstance(block, DiTBlock)
        core: nn.Module = block.self_attention.core
        if isinstance(core, UlyssesAttention | RingAttention):
            raise ValueError("the transformer is already parallelized")
        if mesh.ring.size > 1:
            if not isinstance(core, PartialCore):
                raise TypeError(f"a {type(core).__name__} cannot attend to a subset of the keys")
            core = RingAttention(core, shard, mesh)
        if mesh.ulysses.size > 1:
            core = UlyssesAttention(core, shard, mesh, dit.config.num_heads, peers)
        block.self_attention.register_module("core", core)
    dit.blocks.register_forward_pre_hook(_cut_tokens(shard))
    # Gather after the head: a token has 64 channels there, and 5,120 before it.
    dit.head.register_forward_hook(_gather_tokens(shard))
    return TokenShare(mesh.world.rank, mesh.world.size)


def uses_peer_memory(mesh: ParallelMesh, num_heads: int) -> bool:
    """Return whether fused blocks exchange through peer memory alone, without collectives."""
    evenly = mesh.ring.size == 1 and num_heads % mesh.ulysses.size == 0
    return evenly and mesh.device.type == "cuda" and mesh.non_peer_pair is None


def _cut_tokens(shard: Shard) -> Callable[[nn.Module, BlockInputs], BlockInputs]:
    def cut_tokens(blocks: nn.Module, inputs: BlockInputs) -> BlockInputs:
        tokens, rope, frame_ids, modulation, conditioning = inputs
        own = shard.resize(tokens.shape[1])
        rope = RopeTables(rope.cos[own.span], rope.sin[own.span])
        conditioning = conditioning.cut(own.start, own.stop)
        # A contiguous copy, as each block's result is: blocks are compiled for given strides.
        tokens = tokens[:, own.span].clone(memory_format=torch.contiguous_format)
        return tokens, rope, frame_ids[own.span], modulation, conditioning

    return cut_tokens


def _gather_tokens(shard: Shard) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def gather_tokens(head: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return gather(output, shard.dim, shard.sizes, shard.axis)

    return gather_tokens
