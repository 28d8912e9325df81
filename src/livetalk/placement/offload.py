"""Transformer blocks that wait in host memory and visit the device one after the other.

Two slots on the device take turns: while the block in one computes, the next is copied into the other on a
stream of its own. The blocks do not know: their weights are views of a slot, and hooks keep it filled.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

NUM_SLOTS = 2
ALIGNMENT = 256
"""Bytes that each tensor of a block starts at a multiple of, as the device's allocator would have it."""


class CopyLane(Protocol):
    """Copies to the device that run beside its computation, ordered by marks."""

    def copy(self, target: Tensor, source: Tensor, after: Any) -> Any:
        """Start copying once the mark `after` has passed, and return the copy's mark."""

    def wait(self, mark: Any) -> None:
        """Let the computation that is submitted from here on start after a mark."""

    def mark(self) -> Any:
        """Return a mark that passes when the computation submitted so far is done."""


class CudaLane:
    """Copies on a second CUDA stream."""

    def __init__(self, device: torch.device) -> None:
        """Open a stream on `device`."""
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copy(self, target: Tensor, source: Tensor, after: torch.cuda.Event) -> torch.cuda.Event:
        """Submit a copy; the host does not wait for it."""
        self._stream.wait_event(after)
        # A target that is dropped while its copy is under way is not handed out again before its end.
        target.record_stream(self._stream)
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
        event: torch.cuda.Event = self._stream.record_event()
        return event

    def wait(self, mark: torch.cuda.Event) -> None:
        """Make the current stream wait."""
        torch.cuda.current_stream(self._stream.device).wait_event(mark)

    def mark(self) -> torch.cuda.Event:
        """Record an event on the current stream."""
        event: torch.cuda.Event = torch.cuda.current_stream(self._stream.device).record_event()
        return event


class InlineLane:
    """Copies at once: for a device that computes on the host's own thread."""

    def copy(self, target: Tensor, source: Tensor, after: None) -> None:
        """Copy before returning."""
        target.copy_(source)

    def wait(self, mark: None) -> None:
        """Return: everything is done already."""

    def mark(self) -> None:
        """Return: everything is done already."""


@dataclass(frozen=True, slots=True)
class PackedBlock:
    """The weights of one block in one piece of host memory.

    Attributes:
        data: `[bytes]` uint8, pinned where there is a GPU.
        places: the owner, name, offset and tensor form of each weight.
    """

    data: Tensor
    places: tuple["_Place", ...]

    def view_from(self, slot: Tensor) -> None:
        """Make the block's weights views of `slot`, `[bytes]` uint8."""
        for place in self.places:
            place.point_at(slot)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one weight of a block lies."""

    owner: nn.Module
    name: str
    learned: bool
    offset: int
    num_bytes: int
    dtype: torch.dtype
    shape: torch.Size

    def cut(self, data: Tensor) -> Tensor:
        """View this weight in the bytes of a block."""
        return data[self.offset : self.offset + self.num_bytes].view(self.dtype).view(self.shape)

    def point_at(self, data: Tensor) -> None:
        """Make the owner's weight a view of `data`."""
        weight = self.cut(data)
        setattr(self.owner, self.name, nn.Parameter(weight, requires_grad=False) if self.learned else weight)


def pack_block(block: nn.Module, *, pin: bool) -> PackedBlock:
    """Copy the weights of a block to host memory; the block itself is not changed.

    Args:
        block: its weights may be on any device, and in several dtypes.
        pin: lock the memory in place, which copies beside a computation need.
    """
    places: list[_Place] = []
    tensors: list[Tensor] = []
    end = 0
    for owner in block.modules():
        for name, tensor in (*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False)):
            learned = isinstance(tensor, nn.Parameter)
            places.append(_Place(owner, name, learned, end, tensor.nbytes, tensor.dtype, tensor.shape))
            tensors.append(tensor.detach())
            end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    data = torch.empty(end, dtype=torch.uint8, pin_memory=pin)
    for place, tensor in zip(places, tensors, strict=True):
        place.cut(data).copy_(tensor)
    return PackedBlock(data, tuple(places))


class BlockOffload:
    """Blocks of equal size that share `NUM_SLOTS` places on the device.

    They must run one after the other, in the order given, again and again; a pass that is cut short only
    costs the copies of the next one their head start.
    """

    def __init__(
        self, blocks: Mapping[int, tuple[nn.Module, PackedBlock]], device: torch.device, lane: CopyLane
    ) -> None:
        """Hook into the blocks and start filling the slots.

        Args:
            blocks: a block and its packed weights by its place in the stack; at least one.
            device: of the slots.
            lane: makes the copies.
        """
        self._order = [packed for _, (_, packed) in sorted(blocks.items())]
        size = max(packed.data.numel() for packed in self._order)
        num_slots = min(NUM_SLOTS, len(self._order))
        self._slots = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(num_slots)]
        self._lane = lane
        self._loaded = [-1] * num_slots
        self._ready: list[Any] = [None] * num_slots
        for turn, (_, (block, packed)) in enumerate(sorted(blocks.items())):
            packed.view_from(self._slots[turn % num_slots])
            block.register_forward_pre_hook(self._fetch_before(turn))
            block.register_forward_hook(self._load_after(turn))
        # The memory of the slots may have been something else's, which pending work still uses.
        for turn in range(num_slots):
            self._load(turn)

    @property
    def device_bytes(self) -> int:
        """Memory that the slots take on the device."""
        return sum(slot.nbytes for slot in self._slots)

    @property
    def host_bytes(self) -> int:
        """Memory that the waiting blocks take on the host."""
        return sum(packed.data.nbytes for packed in self._order)

    def _fetch_before(self, turn: int) -> Callable[[nn.Module, Any], None]:
        def fetch(block: nn.Module, args: Any) -> None:
            slot = turn % len(self._slots)
            if self._loaded[slot] != turn:
                self._load(turn)
            self._lane.wait(self._ready[slot])

        return fetch

    def _load_after(self, turn: int) -> Callable[[nn.Module, Any, Any], None]:
        num_slots = len(self._slots)
        following = turn + num_slots if turn + num_slots < len(self._order) else turn % num_slots

        def load(block: nn.Module, args: Any, output: Any) -> None:
            if self._loaded[turn % num_slots] != following:
                self._load(following)

        return load

    def _load(self, turn: int) -> None:
        """Copy a block into its slot once all that was submitted so far, which may read the slot, is done."""
        slot, data = turn % len(self._slots), self._order[turn].data
        self._ready[slot] = self._lane.copy(self._slots[slot][: data.numel()], data, self._lane.mark())
        self._loaded[slot] = turn


def open_lane(device: torch.device) -> CopyLane:
    """Return the lane that suits a device."""
    return CudaLane(device) if device.type == "cuda" else InlineLane()
