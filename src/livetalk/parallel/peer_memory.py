"""Memory of one GPU that the others of its host write to: the quickest exchange between GPUs.

Every rank opens rooms of the same size, and each writes its rows straight to where the others want them. A
barrier between the GPUs, not the processes, tells that all rows are there.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed import _symmetric_memory

from livetalk.log import get_logger
from livetalk.parallel.mesh import Axis

PATIENCE_MS = 600_000
"""A GPU that waits longer for another gives up with an error, as NCCL's does."""


_log = get_logger(__name__)


def open_peer_memory(axis: Axis, device: torch.device) -> "PeerMemory | None":
    """Open the memory of an axis's GPUs to one another; every rank must call this.

    Args:
        axis: ranks of one host; rank r of the process group computes on GPU r.
        device: where this rank computes.

    Returns:
        None where there are no GPUs, or a warning says why they cannot.
    """
    if axis.size == 1 or device.type != "cuda":
        return None
    devices = range(torch.cuda.device_count())
    apart = [
        (a, b) for a in devices for b in devices if a != b and not torch.cuda.can_device_access_peer(a, b)
    ]
    if apart:
        _log.warning("GPUs %d and %d cannot reach each other's memory: exchanges go through NCCL", *apart[0])
        return None
    _log.info("attention over GPUs: each writes to the memory of the others")
    return PeerMemory(axis, device)


class PeerMemory:
    """Rooms that the ranks of an axis write to.

    A room is written again at its next use. What arrived there must have been read, in the order of the
    device, before this rank's part of the last exchange in between: rooms are used in turn, at least two of
    them.
    """

    def __init__(self, axis: Axis, device: torch.device) -> None:
        """Exchange along `axis`, whose ranks can all reach each other's memory from `device`."""
        self._axis = axis
        self._device = device
        self._rooms: dict[str, tuple[Tensor, Any]] = {}

    def exchange(self, room: str, parts: Sequence[Tensor], places: Sequence[int], size: int) -> Tensor:
        """Write rows to all ranks, and return what they wrote here.

        Args:
            room: name of a use; every rank uses the same rooms in the same order.
            parts: the rows for ranks 0, 1, ..., each `[n, ...]` and contiguous.
            places: the row of each rank's room at which these begin.
            size: rows of a room, on every rank the same.

        Returns:
            `[size, ...]`, the room: good until its next use. Rows that nobody wrote hold anything.
        """
        row_bytes = parts[0].stride(0) * parts[0].element_size()
        own, memory = self._room(room, size * row_bytes)
        for rank, (part, place) in enumerate(zip(parts, places, strict=True)):
            target = own if rank == self._axis.rank else memory.get_buffer(rank, own.shape, own.dtype)
            rows = target[place * row_bytes :][: part.shape[0] * row_bytes]
            rows.view(part.dtype).view(part.shape).copy_(part)
        memory.barrier(timeout_ms=PATIENCE_MS)
        return own[: size * row_bytes].view(parts[0].dtype).view(size, *parts[0].shape[1:])

    def _room(self, name: str, num_bytes: int) -> tuple[Tensor, Any]:
        """Return this rank's own part of a room and the handle of all parts, opened on the first call."""
        if name not in self._rooms or self._rooms[name][0].numel() < num_bytes:
            # A name of a type of its own, which it has in newer versions only.
            group = cast(Any, self._axis.group_name)
            own = _symmetric_memory.empty(num_bytes, dtype=torch.uint8, device=self._device)
            self._rooms[name] = own, _symmetric_memory.rendezvous(own, group)
        return self._rooms[name]
