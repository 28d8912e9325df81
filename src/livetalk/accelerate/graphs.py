"""Transformer blocks replayed from a CUDA graph, with one launch for thousands of kernels.

On several GPUs a step computes faster than one process can launch its kernels. A graph reads and writes the
same memory at each replay, so inputs that change between steps are copied there first.
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
"""Window sizes that get a graph; each graph holds its activations and a copy of its inputs."""

_log = get_logger(__name__)

BlockInputs = tuple[Tensor, RopeTables, Tensor, Tensor, BlockConditioning | StackConditioning]


class GraphedBlocks(nn.Module):
    """The fast form of a stack of blocks: a graph from the second pass over a window size on.

    Each pass overwrites the result of the one before. Gradients are not supported.
    """

    def __init__(self) -> None:
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
        """Whether a size without a graph may be captured now."""
        if size not in self._seen:
            # The first pass compiles kernels and opens peer memory, neither of which can be captured.
            self._seen.add(size)
            return False
        if len(self._graphs) < MAX_GRAPHS:
            return True
        if size not in self._refused:
            self._refused.add(size)
            _log.warning("one more window size: its kernels are launched one by one, without a CUDA graph")
        return False

    def _capture(self, stack: BlockStack, inputs: BlockInputs) -> "_Graph":
        static_inputs = replace_leaves(inputs, iter([x.clone() for x in _tensors(inputs)]))
        graph, result = self._record(stack, static_inputs)
        return _Graph(graph, _tensors(static_inputs), result, [_NOTHING for _ in _tensors(static_inputs)])

    def _record(self, stack: BlockStack, static_inputs: BlockInputs) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """Return a graph that reads `static_inputs`, and its output tensor."""
        graph = torch.cuda.CUDAGraph()
        # Other threads copy frames and poll NCCL meanwhile; in the default mode their CUDA calls would
        # invalidate the capture.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = stack.run(*static_inputs)
        return graph, result


def _nothing() -> None:
    return None


# Stands for a reference to a freed tensor: no input is it, so the first replay copies all inputs.
_NOTHING = cast("weakref.ref[Tensor]", _nothing)


@dataclass(frozen=True, slots=True)
class _Graph:
    """A captured pass."""

    graph: torch.cuda.CUDAGraph
    static_inputs: list[Tensor]  # the tensors that it reads
    result: Tensor  # the tensor that it writes
    copied: list["weakref.ref[Tensor]"]  # for each input, the tensor last copied there

    def replay(self, inputs: BlockInputs) -> Tensor:
        """Copy the inputs that changed, and replay."""
        for index, (target, x) in enumerate(zip(self.static_inputs, _tensors(inputs), strict=True)):
            # Constants of a stream and a chunk are the same objects in every step. Addresses would not
            # identify them, because freed memory is reused.
            if self.copied[index]() is not x:
                target.copy_(x)
                self.copied[index] = weakref.ref(x)
        self.graph.replay()
        return self.result


def walk_leaves(tree: object) -> Iterator[object]:
    """Yield the leaves of nested tuples from left to right."""
    if isinstance(tree, tuple):
        for branch in tree:
            yield from walk_leaves(branch)
    else:
        yield tree


def replace_leaves(tree: Any, tensors: Iterator[Tensor]) -> Any:
    """Return nested tuples of the same types with their tensors replaced in order."""
    if isinstance(tree, tuple):
        branches = [replace_leaves(branch, tensors) for branch in tree]
        return type(tree)(*branches) if hasattr(tree, "_fields") else tuple(branches)
    return next(tensors) if isinstance(tree, Tensor) else tree


def _tensors(inputs: BlockInputs) -> list[Tensor]:
    return [leaf for leaf in walk_leaves(inputs) if isinstance(leaf, Tensor)]


def graph_blocks(dit: DiT) -> None:
    """Replay the blocks of a transformer on a GPU from CUDA graphs, for inference.

    Hooks of the stack run outside the graph; hooks of a block run only during capture. Blocks must not
    synchronise with the host or be offloaded.
    """
    dit.blocks.fast_form = GraphedBlocks()
    _log.info("blocks: replayed from CUDA graphs")
