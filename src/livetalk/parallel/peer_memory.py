"""Memory of one GPU that the others of its host write to: the quickest exchange between GPUs.

Every rank opens rooms of the same size, and each writes its rows straight to where the others want them: a
kernel may do that as it makes them. A barrier between the GPUs, not the processes, tells that all are there.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.distributed import _symmetric_memory

from livetalk.log import get_logger
from livetalk.parallel.mesh import Axis, ParallelMesh

PATIENCE_MS = 600_000
"""A GPU that waits longer for another gives up with an error, as NCCL's does."""


_log = get_logger(__name__)


def open_peer_memory(mesh: ParallelMesh) -> "PeerMemory | None":
    """Open the memory of the GPUs along a mesh's Ulysses axis to one another; every rank must call this.

    Args:
        mesh: the ranks.

    Returns:
        None where there are no GPUs, or a log line says which of them cannot.
    """
    if mesh.ulysses.size == 1 or mesh.device.type != "cuda":
        return None
    if mesh.apart is not None:
        first, second = (rank + 1 for rank in mesh.apart)
        _log.warning(
            "GPU workers %d and %d cannot reach each other's memory: exchanges go through NCCL", first, second
        )
        return None
    _log.info("attention over GPUs: each writes to the memory of the others")
    return PeerMemory(mesh.ulysses, mesh.device)


class Room(NamedTuple):
    """A stretch of memory on every rank.

    Attributes:
        parts: `[bytes]` on ranks 0, 1, ...
        memory: PyTorch's handle of all parts.
    """

    parts: list[Tensor]
    memory: Any


class PeerMemory:
    """Rooms that the ranks of an axis write to.

    A room's use is: `open`, write, `meet`, read, on whichever rank. It is written again at its next use, and
    nobody asks whether it has been read. So rooms are used in turn, at least two of them: whoever writes to a
    room again has passed a meeting in another room, and each rank enters that one, in the order of its
    device, after it has read what it wanted of the first.

    A room stays where it is for good, as CUDA graphs want it. Only its first use waits for other processes.
    """

    def __init__(self, axis: Axis, device: torch.device) -> None:
        """Meet along `axis`, whose ranks can all reach each other's memory from `device`."""
        self._axis = axis
        self._device = device
        self._rooms: dict[str, Room] = {}
        self._outgrown: list[Room] = []

    def open(self, room: str, shape: Sequence[int], dtype: torch.dtype) -> list[Tensor]:
        """Return the memory of a room on every rank, to be written.

        Args:
            room: name of a use; every rank uses the same rooms in the same order.
            shape: of what is to lie there, on every rank the same.
            dtype: of it.

        Returns:
            For ranks 0, 1, ...: a tensor of that shape in the memory of that rank's GPU.
        """
        num_bytes = prod(shape) * dtype.itemsize
        if room not in self._rooms or self._rooms[room].parts[0].numel() < num_bytes:
            if room in self._rooms:
                # CUDA graphs of smaller windows go on writing there.
                self._outgrown.append(self._rooms[room])
            self._rooms[room] = self._build(num_bytes)
        return [part[:num_bytes].view(dtype).view(*shape) for part in self._rooms[room].parts]

    def meet(self, room: str) -> None:
        """Let the device wait until every rank has written all that it writes to a room."""
        self._rooms[room].memory.barrier(timeout_ms=PATIENCE_MS)

    def exchange(self, room: str, parts: Sequence[Tensor], places: Sequence[int], size: int) -> Tensor:
        """Write rows to all ranks, and return what they wrote here.

        Args:
            room: as for `open`.
            parts: the rows for ranks 0, 1, ..., each `[n, ...]`.
            places: the row of each rank's room at which these begin.
            size: rows of a room, on every rank the same.

        Returns:
            `[size, ...]`, the room: good until its next use. Rows that nobody wrote hold anything.
        """
        targets = self.open(room, (size, *parts[0].shape[1:]), parts[0].dtype)
        for target, part, place in zip(targets, parts, places, strict=True):
            target[place : place + part.shape[0]].copy_(part)
        self.meet(room)
        return targets[self._axis.rank]

    def _build(self, num_bytes: int) -> Room:
        """Build a room together with the other ranks."""
        # A name of a type of its own, which it has in newer versions only.
        group = cast(Any, self._axis.group_name)
        own = _symmetric_memory.empty(num_bytes, dtype=torch.uint8, device=self._device)
        memory = _symmetric_memory.rendezvous(own, group)
        parts = [
            own if rank == self._axis.rank else memory.get_buffer(rank, own.shape, own.dtype)
            for rank in range(self._axis.size)
        ]
        return Room(parts, memory)
