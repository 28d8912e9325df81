"""The blocks of a transformer replayed from a CUDA graph: one launch in place of thousands.

Several GPUs compute a step faster than one process can ask for it, kernel by kernel. A graph asks once. It
reads and writes the same memory at each replay, so what changes between steps is copied there first.
"""

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from livetalk.log import get_logger
from livetalk.models.dit import DiT
from livetalk.models.dit_blocks import BlockStack
from livetalk.models.dit_context import BlockConditioning, StackConditioning
from livetalk.ops.rope import RopeTables

MAX_GRAPHS = 2
"""Sizes of windows that have a graph; each keeps its activations and a copy of what it reads."""

_log = get_logger(__name__)

BlockInputs = tuple[Tensor, RopeTables, Tensor, Tensor, BlockConditioning | StackConditioning]


class GraphedBlocks(nn.Module):
    """The fast form of a stack of blocks: a graph, from the second pass over a size of window on.

    The result of a pass is overwritten by the next one. No gradients.
    """

    def __init__(self) -> None:
        """Start without a graph."""
        super().__init__()
        self._seen: set[tuple[Any, ...]] = set()
        self._refused: set[tuple[Any, ...]] = set()
        self._graphs: dict[tuple[Any, ...], _Graph] = {}

    def forward(
        self,
        stack: BlockStack,
        tokens: Tensor,
        rope: RopeTables,
        frame_ids: Tensor,
        modulation: Tensor,
        conditioning: BlockConditioning | StackConditioning,
    ) -> Tensor:
        """Return `[B, L, D]` in the dtype of `tokens`, see `BlockStack`."""
        inputs: BlockInputs = (tokens, rope, frame_ids, modulation, conditioning)
        size = tuple(
            (leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in walk_leaves(inputs)
        )
        if size not in self._graphs and not self._may_capture(size):
            return stack.run(*inputs)
        if size not in self._graphs:
            self._graphs[size] = self._capture(stack, inputs)
        return self._graphs[size].replay(inputs)

    def _may_capture(self, size: tuple[Any, ...]) -> bool:
        """Tell whether a size that has no graph may get one now."""
        if size not in self._seen:
            # The first pass compiles kernels and opens memory between GPUs: none of that can be captured.
            self._seen.add(size)
            return False
        if len(self._graphs) < MAX_GRAPHS:
            return True
        if size not in self._refused:
            self._refused.add(size)
            _log.warning("windows of one more size: launched kernel by kernel, without a CUDA graph")
        return False

    def _capture(self, stack: BlockStack, inputs: BlockInputs) -> "_Graph":
        room = replace_leaves(inputs, iter([x.clone() for x in _tensors(inputs)]))
        graph, result = self._record(stack, room)
        return _Graph(graph, _tensors(room), result, [_NOTHING for _ in _tensors(room)])

    def _record(self, stack: BlockStack, room: BlockInputs) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """Return a graph that reads `room`, and what it writes."""
        graph = torch.cuda.CUDAGraph()
        # Other threads copy frames and watch exchanges meanwhile, which is no matter of this graph.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = stack.run(*room)
        return graph, result


def _nothing() -> None:
    return None


_NOTHING = cast("weakref.ref[Tensor]", _nothing)


@dataclass(frozen=True, slots=True)
class _Graph:
    """A captured pass.

    Attributes:
        graph: launches it.
        room: what it reads.
        result: what it writes.
        copied: the tensors that were last copied to the room.
    """

    graph: torch.cuda.CUDAGraph
    room: list[Tensor]
    result: Tensor
    copied: list["weakref.ref[Tensor]"]

    def replay(self, inputs: BlockInputs) -> Tensor:
        """Copy what is not in the room yet, and run."""
        for index, (target, x) in enumerate(zip(self.room, _tensors(inputs), strict=True)):
            # The constants of a session and of a chunk come again as the same objects. An address would not
            # do: other numbers may lie there by now.
            if self.copied[index]() is not x:
                target.copy_(x)
                self.copied[index] = weakref.ref(x)
        self.graph.replay()
        return self.result


def walk_leaves(tree: object) -> Iterator[object]:
    """Yield what nested tuples hold, from left to right."""
    if isinstance(tree, tuple):
        for branch in tree:
            yield from walk_leaves(branch)
    else:
        yield tree


def replace_leaves(tree: Any, tensors: Iterator[Tensor]) -> Any:
    """Return nested tuples of the same types with other tensors in the places of theirs."""
    if isinstance(tree, tuple):
        branches = [replace_leaves(branch, tensors) for branch in tree]
        return type(tree)(*branches) if hasattr(tree, "_fields") else tuple(branches)
    return next(tensors) if isinstance(tree, Tensor) else tree


def _tensors(inputs: BlockInputs) -> list[Tensor]:
    return [leaf for leaf in walk_leaves(inputs) if isinstance(leaf, Tensor)]


def graph_blocks(dit: DiT) -> None:
    """Replay the blocks of a transformer from CUDA graphs.

    Hooks of the stack, such as those of ranks, run outside the graph, and hooks of a block only while it is
    captured. Blocks must not wait for the device or be moved to it.

    Args:
        dit: on a GPU; changed in place, for inference; its parameters and state dict stay.
    """
    dit.blocks.fast_form = GraphedBlocks()
    _log.info("blocks: replayed from CUDA graphs")
