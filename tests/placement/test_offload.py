from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from livetalk.models.dit import DiT
from livetalk.placement.apply import PlacementConfig, apply_placement
from livetalk.placement.offload import (
    BlockOffload,
    CopyStream,
    InlineCopyStream,
    open_copy_stream,
    pack_block,
)
from tiny import DIT_WITH_PROMPT, dit_inputs, tiny_dit

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


class LazyCopyStream:
    """A correct copy stream with the greatest delay: a copy runs only when its event is waited for.

    Until then the target is invalid, like a slot that is being written. Blocks that do not wait, or
    copies that overwrite a slot too early, therefore change the result.
    """

    def __init__(self) -> None:
        """Start without copies."""
        self.pending: list[tuple[Tensor, Tensor]] = []
        self.num_copies = 0

    def copy(self, target: Tensor, source: Tensor, after: object) -> int:
        """Invalidate the target and queue the copy."""
        target.fill_(0xFF)
        self.pending.append((target, source))
        self.num_copies += 1
        return self.num_copies

    def wait(self, event: int) -> None:
        """Run all copies up to an event."""
        while self.pending and self.num_copies - len(self.pending) < event:
            target, source = self.pending.pop(0)
            target.copy_(source)

    def record(self) -> None:
        """Return None: the CPU computes synchronously."""


def offload(dit: DiT, indices: list[int], stream: CopyStream) -> BlockOffload:
    """Offload some blocks."""
    blocks = {
        index: (dit.blocks.layers[index], pack_block(dit.blocks.layers[index], pin=False))
        for index in indices
    }
    return BlockOffload(blocks, CPU, stream)


def deep_dit() -> DiT:
    """Build a transformer of five blocks, all with different weights."""
    return tiny_dit(replace(DIT_WITH_PROMPT, num_layers=5))


@pytest.mark.parametrize("indices", [[2], [0, 4], [0, 1, 2], [0, 1, 2, 3, 4], [1, 2, 4]])
@pytest.mark.parametrize("stream", [InlineCopyStream, LazyCopyStream])
def test_the_result_is_that_of_resident_blocks(indices: list[int], stream: Any) -> None:
    dit, inputs = deep_dit(), dit_inputs(DIT_WITH_PROMPT)
    expected = dit(*inputs)
    offload(dit, indices, stream())
    for _ in range(3):
        assert torch.equal(dit(*inputs), expected)


def test_each_pass_copies_each_offloaded_block_once() -> None:
    dit, inputs, stream = deep_dit(), dit_inputs(DIT_WITH_PROMPT), LazyCopyStream()
    offload(dit, [0, 1, 2, 3], stream)
    dit(*inputs)
    before = stream.num_copies
    dit(*inputs)
    assert stream.num_copies - before == 4


def test_an_aborted_pass_is_followed_by_a_correct_one() -> None:
    dit, inputs = deep_dit(), dit_inputs(DIT_WITH_PROMPT)
    expected = dit(*inputs)
    offload(dit, [0, 1, 2, 3], LazyCopyStream())

    def interrupt(module: nn.Module, args: Any) -> None:
        raise KeyboardInterrupt

    for index in range(5):
        hook = dit.blocks.layers[index].register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            dit(*inputs)
        hook.remove()
        assert torch.equal(dit(*inputs), expected)


def test_slots_and_host_memory_are_counted() -> None:
    dit = deep_dit()
    block_bytes = pack_block(dit.blocks.layers[0], pin=False).data.nbytes
    work = offload(dit, [0, 1, 3], InlineCopyStream())
    assert (work.device_bytes, work.host_bytes) == (2 * block_bytes, 3 * block_bytes)
    weights = sum(p.nbytes for p in dit.blocks.layers[0].parameters())
    assert weights <= block_bytes < weights + 256 * 60


def test_quantised_blocks_can_be_offloaded() -> None:
    inputs = dit_inputs(DIT_WITH_PROMPT)
    resident, waiting = deep_dit(), deep_dit()
    assert apply_placement(resident, PlacementConfig(weights="float8"), CPU) == frozenset()
    waits = apply_placement(waiting, PlacementConfig(weights="float8", resident_blocks=1), CPU)
    assert waits == {0, 1, 3, 4}
    assert torch.equal(waiting(*inputs), resident(*inputs))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("weights", ["full", "float8"])
def test_on_a_gpu_the_result_is_that_of_resident_blocks(weights: Any) -> None:
    device = torch.device("cuda")
    resident, waiting = (deep_dit().bfloat16() for _ in range(2))
    inputs = [None if x is None else x.to(device) for x in dit_inputs(DIT_WITH_PROMPT)]
    apply_placement(resident, PlacementConfig(weights=weights), device)
    waits = apply_placement(waiting, PlacementConfig(weights=weights, resident_blocks=1), device)
    assert waits == {0, 1, 3, 4} and not isinstance(open_copy_stream(device), InlineCopyStream)
    for _ in range(5):
        assert torch.equal(waiting(*inputs), resident(*inputs))
