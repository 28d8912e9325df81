"""Peer access between the GPUs of a group of ranks, queried from the driver by UUID.

A process may see all GPUs of its host or only its own, and device indices differ between processes. Ranks
therefore share the UUIDs of their GPUs, and each rank queries the driver about the GPUs that it sees.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RankDevice:
    """UUID of a rank's GPU, the same in every process, and its device index in the process of that rank."""

    uuid: str
    index: int


def device_uuid(device: torch.device) -> str:
    return str(torch.cuda.get_device_properties(device).uuid)


def find_non_peer_pair(device: torch.device) -> tuple[int, int] | None:
    """Return two ranks whose GPUs cannot access each other's memory, or None; collective."""
    if device.type != "cuda" or dist.get_world_size() == 1:
        return None
    own = RankDevice(
        device_uuid(device), torch.cuda.current_device() if device.index is None else device.index
    )
    devices = _gather(own)
    peer = first_non_peer(devices, dist.get_rank())
    # Every rank takes the first answer, so that all ranks return the same pair.
    answers: list[int | None] = _gather(peer)
    return next(((rank, peer) for rank, peer in enumerate(answers) if peer is not None), None)


def first_non_peer(devices: Sequence[RankDevice], rank: int) -> int | None:
    """Return the first rank whose GPU is not a peer of this rank's GPU, or None."""
    own = devices[rank]
    visible = {device_uuid(torch.device("cuda", n)): n for n in range(torch.cuda.device_count())}
    for other, device in enumerate(devices):
        if other == rank:
            continue
        index = visible.get(device.uuid)
        # PyTorch's symmetric memory needs a distinct device index for each rank's GPU.
        if index is None or device.index == own.index:
            return other
        if not torch.cuda.can_device_access_peer(own.index, index):
            return other
    return None


def _gather(value: T) -> list[T]:
    values: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return cast(list[T], values)
