"""The transformer over several ranks: each holds a stretch of the window's tokens and all of the weights.

From the entry of the block stack to the exit of the head every rank sees its own tokens only. Tokens meet in
self-attention alone, whose core is swapped. All else is as it was.
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
    """Let all ranks of a mesh share the work of every forward pass.

    Each must then call the transformer with the same inputs at the same time; each gets the whole velocity,
    bit for bit the same. Comes after quantisation and the choice of attention cores, and before compilation.

    Args:
        dit: on `mesh.device`, with the same weights on every rank; altered in place.
        mesh: the ranks. A mesh of one leaves the transformer as it is.

    Returns:
        Which tokens of a window the blocks of this rank compute, for the `ExecutionPlan`.

    Raises:
        InputError: an axis has more ranks than there are heads.
        TypeError: there is a ring, and an attention core that cannot be part of it.
        ValueError: the transformer is spread over ranks already.
    """
    if mesh.everyone.size == 1:
        return TokenShare()
    shard = Shard(mesh.everyone, "tokens", dim=1)
    # One for all blocks, which use it one after the other.
    peers = open_peer_memory(mesh)
    for block in dit.blocks.layers:
        assert isinstance(block, DiTBlock)
        core: nn.Module = block.self_attention.core
        if isinstance(core, UlyssesAttention | RingAttention):
            raise ValueError("the transformer is spread over ranks already")
        if mesh.ring.size > 1:
            if not isinstance(core, PartialCore):
                raise TypeError(f"a {type(core).__name__} cannot attend to a part of the keys")
            core = RingAttention(core, shard, mesh)
        if mesh.ulysses.size > 1:
            core = UlyssesAttention(core, shard, mesh, dit.config.num_heads, peers)
        block.self_attention.register_module("core", core)
    dit.blocks.register_forward_pre_hook(_cut_tokens(shard))
    # Behind the head a token is 64 numbers, before it 5,120.
    dit.head.register_forward_hook(_gather_tokens(shard))
    return TokenShare(mesh.everyone.rank, mesh.everyone.size)


def meets_in_memory(mesh: ParallelMesh, num_heads: int) -> bool:
    """Tell whether fused blocks over these ranks exchange through GPUs' memory alone, without collectives.

    Args:
        mesh: the ranks.
        num_heads: of the transformer.
    """
    evenly = mesh.ring.size == 1 and num_heads % mesh.ulysses.size == 0
    return evenly and mesh.device.type == "cuda" and mesh.apart is None


def _cut_tokens(shard: Shard) -> Callable[[nn.Module, BlockInputs], BlockInputs]:
    def cut_tokens(blocks: nn.Module, inputs: BlockInputs) -> BlockInputs:
        tokens, rope, frame_ids, modulation, conditioning = inputs
        own = shard.enter(tokens.shape[1])
        rope = RopeTables(rope.cos[own.span], rope.sin[own.span])
        conditioning = conditioning.cut(own.start, own.stop)
        # A copy in memory of its own, as each block's result is: compiled blocks are compiled for strides.
        tokens = tokens[:, own.span].clone(memory_format=torch.contiguous_format)
        return tokens, rope, frame_ids[own.span], modulation, conditioning

    return cut_tokens


def _gather_tokens(shard: Shard) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def gather_tokens(head: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return gather(output, shard.dim, shard.sizes, shard.axis)

    return gather_tokens
