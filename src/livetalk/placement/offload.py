"""Offload of transformer blocks to host memory with prefetch.

Two slots on the device alternate: while the block in one computes, the next block is copied to the other on a
side stream. The weights of the blocks are views of the slots.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

NUM_SLOTS = 2
ALIGNMENT = 256
"""Alignment of each tensor in bytes, at least that of the device's allocator, which kernels may rely on."""


class CopyStream(Protocol):
    """Copies to the device in parallel with its computation, ordered by events."""

    def copy(self, target: Tensor, source: Tensor, after: Any) -> Any:
        """Start a copy once the event `after` has occurred, and return the copy's event."""

    def wait(self, event: Any) -> None:
        """Make computation that is submitted later wait for an event."""

    def record(self) -> Any:
        """Return an event that occurs when the computation submitted so far is done."""


class CudaCopyStream:
    """Copies on a CUDA side stream."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copy(self, target: Tensor, source: Tensor, after: torch.cuda.Event) -> torch.cuda.Event:
        """Submit a copy without blocking the host."""
        self._stream.wait_event(after)
        # The allocator does not reuse the target's memory, if it is freed, before the copy has finished.
        target.record_stream(self._stream)
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
        event: torch.cuda.Event = self._stream.record_event()
        return event

    def wait(self, event: torch.cuda.Event) -> None:
        torch.cuda.current_stream(self._stream.device).wait_event(event)

    def record(self) -> torch.cuda.Event:
        event: torch.cuda.Event = torch.cuda.current_stream(self._stream.device).record_event()
        return event


class InlineCopyStream:
    """Synchronous copies, for a device that computes on the host's thread."""

    def copy(self, target: Tensor, source: Tensor, after: None) -> None:
        """Copy before returning."""
        target.copy_(source)

    def wait(self, event: None) -> None:
        """Return at once: all copies have finished."""

    def record(self) -> None:
        """Return at once: all computation has finished."""


@dataclass(frozen=True, slots=True)
class PackedBlock:
    """The weights of one block in one host buffer, uint8 `[bytes]`, pinned if there is a GPU."""

    data: Tensor
    locations: tuple["_WeightLocation", ...]

    def view_from(self, slot: Tensor) -> None:
        """Make the block's weights views of `slot`, uint8 `[bytes]`."""
        for location in self.locations:
            location.set_view(slot)


@dataclass(frozen=True, slots=True)
class _WeightLocation:
    owner: nn.Module
    name: str
    is_parameter: bool
    offset: int
    num_bytes: int
    dtype: torch.dtype
    shape: torch.Size

    def view_in(self, data: Tensor) -> Tensor:
        return data[self.offset : self.offset + self.num_bytes].view(self.dtype).view(self.shape)

    def set_view(self, data: Tensor) -> None:
        weight = self.view_in(data)
        setattr(
            self.owner, self.name, nn.Parameter(weight, requires_grad=False) if self.is_parameter else weight
        )


def pack_block(block: nn.Module, *, pin: bool) -> PackedBlock:
    """Copy the weights of a block, on any device and of any dtypes, to one host buffer."""
    locations: list[_WeightLocation] = []
    tensors: list[Tensor] = []
    end = 0
    for owner in block.modules():
        for name, tensor in (*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False)):
            is_parameter = isinstance(tensor, nn.Parameter)
            locations.append(
                _WeightLocation(owner, name, is_parameter, end, tensor.nbytes, tensor.dtype, tensor.shape)
            )
            tensors.append(tensor.detach())
            end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    # One buffer per block makes one large copy, which reaches the bandwidth of the bus.
    data = torch.empty(end, dtype=torch.uint8, pin_memory=pin)
    for location, tensor in zip(locations, tensors, strict=True):
        location.view_in(data).copy_(tensor)
    return PackedBlock(data, tuple(locations))


class BlockOffload:
    """Blocks that share `NUM_SLOTS` slots on the device.

    They must run one after another, in order, repeatedly. After an aborted pass the next one starts without
    prefetched blocks.
    """

    def __init__(
        self, blocks: Mapping[int, tuple[nn.Module, PackedBlock]], device: torch.device, stream: CopyStream
    ) -> None:
        """Register hooks on the blocks, given by their index in the stack, and start to fill the slots."""
        self._order = [packed for _, (_, packed) in sorted(blocks.items())]
        size = max(packed.data.numel() for packed in self._order)
        num_slots = min(NUM_SLOTS, len(self._order))
        self._slots = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(num_slots)]
        self._stream = stream
        self._loaded = [-1] * num_slots
        self._ready: list[Any] = [None] * num_slots
        for turn, (_, (block, packed)) in enumerate(sorted(blocks.items())):
            packed.view_from(self._slots[turn % num_slots])
            block.register_forward_pre_hook(self._wait_before(turn))
            block.register_forward_hook(self._prefetch_after(turn))
        # Pending work may still use the memory that the slots were allocated from; the copies wait for it.
        for turn in range(num_slots):
            self._load(turn)

    @property
    def device_bytes(self) -> int:
        """Device memory of the slots."""
        return sum(slot.nbytes for slot in self._slots)

    @property
    def host_bytes(self) -> int:
        """Host memory of the offloaded blocks."""
        return sum(packed.data.nbytes for packed in self._order)

    def _wait_before(self, turn: int) -> Callable[[nn.Module, Any], None]:
        def fetch(block: nn.Module, args: Any) -> None:
            slot = turn % len(self._slots)
            # The prefetched block is another one if the last pass was aborted.
            if self._loaded[slot] != turn:
                self._load(turn)
            self._stream.wait(self._ready[slot])

        return fetch

    def _prefetch_after(self, turn: int) -> Callable[[nn.Module, Any, Any], None]:
        num_slots = len(self._slots)
        following = turn + num_slots if turn + num_slots < len(self._order) else turn % num_slots

        def load(block: nn.Module, args: Any, output: Any) -> None:
            if self._loaded[turn % num_slots] != following:
                self._load(following)

        return load

    def _load(self, turn: int) -> None:
        """Copy a block into its slot after all work submitted so far, which may read the slot."""
        slot, data = turn % len(self._slots), self._order[turn].data
        self._ready[slot] = self._stream.copy(self._slots[slot][: data.numel()], data, self._stream.record())
        self._loaded[slot] = turn


def open_copy_stream(device: torch.device) -> CopyStream:
    return CudaCopyStream(device) if device.type == "cuda" else InlineCopyStream()
