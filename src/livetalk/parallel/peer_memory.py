"""Exchanges between the GPUs of one host through peer-accessible memory.

Each rank, or a kernel that computes a result, writes rows directly into buffers of the GPUs that need them. A
barrier between the GPUs, without the host, marks the end of the writes.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.distributed import _symmetric_memory

from livetalk.log import get_logger
from livetalk.parallel.mesh import Axis, ParallelMesh

BARRIER_TIMEOUT_MS = 600_000
"""Timeout of a barrier on the GPU, equal to NCCL's default; it raises an error."""


_log = get_logger(__name__)


def open_peer_memory(mesh: ParallelMesh) -> "PeerMemory | None":
    """Open peer memory along a mesh's Ulysses axis, or return None if it is unavailable; collective."""
    if mesh.ulysses.size == 1 or mesh.device.type != "cuda":
        return None
    if mesh.non_peer_pair is not None:
        first, second = (rank + 1 for rank in mesh.non_peer_pair)
        _log.warning(
            "GPU workers %d and %d cannot access each other's memory: exchanges go through NCCL",
            first,
            second,
        )
        return None
    _log.info("attention on several GPUs: exchanges through peer memory")
    return PeerMemory(mesh.ulysses, mesh.device)


class PeerBuffer(NamedTuple):
    """One uint8 buffer `[bytes]` on every rank, in rank order, and PyTorch's symmetric memory handle."""

    parts: list[Tensor]
    handle: Any


class PeerMemory:
    """Named buffers that all ranks of an axis can write to.

    All ranks use a buffer in the same order: `open`, write, `barrier`, read. Nothing marks the end of the
    reads. A rank must therefore pass the barrier of another buffer before it writes to the same one again:
    each rank enters that barrier, in stream order, only after its reads. Callers alternate between two or
    more buffers.

    Addresses stay valid for the lifetime of the object, as CUDA graphs require. Only the first use of a
    buffer synchronises with other processes on the host.
    """

    def __init__(self, axis: Axis, device: torch.device) -> None:
        """Start without buffers; `device` must have access to the GPUs of all ranks of `axis`."""
        self._axis = axis
        self._device = device
        self._buffers: dict[str, PeerBuffer] = {}
        self._replaced: list[PeerBuffer] = []

    def open(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> list[Tensor]:
        """Return a writable tensor on every rank, in rank order, allocated on first use.

        All ranks open the same names in the same order, with the same shapes and dtypes.
        """
        num_bytes = prod(shape) * dtype.itemsize
        if name not in self._buffers or self._buffers[name].parts[0].numel() < num_bytes:
            if name in self._buffers:
                # CUDA graphs recorded for smaller windows still write to the replaced buffer.
                self._replaced.append(self._buffers[name])
            self._buffers[name] = self._build(num_bytes)
        return [part[:num_bytes].view(dtype).view(*shape) for part in self._buffers[name].parts]

    def barrier(self, name: str) -> None:
        """Queue a wait on this GPU until all ranks have finished their writes to a buffer."""
        self._buffers[name].handle.barrier(timeout_ms=BARRIER_TIMEOUT_MS)

    def exchange(self, name: str, parts: Sequence[Tensor], offsets: Sequence[int], size: int) -> Tensor:
        """Write rows to all ranks, and return the rows received, `[size, ...]`, valid until the next use.

        `parts` are the rows for each rank, `offsets` their first rows in its buffer of `size` rows. Rows that
        no rank has written are undefined.
        """
        targets = self.open(name, (size, *parts[0].shape[1:]), parts[0].dtype)
        for target, part, offset in zip(targets, parts, offsets, strict=True):
            target[offset : offset + part.shape[0]].copy_(part)
        self.barrier(name)
        return targets[self._axis.rank]

    def _build(self, num_bytes: int) -> PeerBuffer:
        """Allocate a buffer on all ranks; collective."""
        # The group name's type is str in some PyTorch releases and GroupName in newer ones.
        group = cast(Any, self._axis.group_name)
        own = _symmetric_memory.empty(num_bytes, dtype=torch.uint8, device=self._device)
        handle = _symmetric_memory.rendezvous(own, group)
        parts = [
            own if rank == self._axis.rank else handle.get_buffer(rank, own.shape, own.dtype)
            for rank in range(self._axis.size)
        ]
        return PeerBuffer(parts, handle)
