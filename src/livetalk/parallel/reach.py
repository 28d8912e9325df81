"""Which GPUs of a group of ranks can reach each other's memory: established by asking, never by number.

A rank may see all GPUs of its host or its own alone, and the same GPU may have another number in every
process. So ranks tell each other the UUID of their GPU, and each asks the driver about those that it sees.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RankDevice:
    """The GPU of a rank.

    Attributes:
        uuid: of the GPU, the same in every process.
        index: its number in the process of that rank.
    """

    uuid: str
    index: int


def device_uuid(device: torch.device) -> str:
    """Return the UUID of a GPU."""
    return str(torch.cuda.get_device_properties(device).uuid)


def find_unreachable_pair(device: torch.device) -> tuple[int, int] | None:
    """Return two ranks whose GPUs cannot reach each other's memory, if there are any; all ranks must ask.

    Args:
        device: where this rank computes, such as `cuda:0`.

    Returns:
        The same on every rank; None also where ranks do not compute on GPUs.
    """
    if device.type != "cuda" or dist.get_world_size() == 1:
        return None
    own = RankDevice(
        device_uuid(device), torch.cuda.current_device() if device.index is None else device.index
    )
    devices = _gather(own)
    peer = first_unreachable(devices, dist.get_rank())
    answers: list[int | None] = _gather(peer)
    return next(((rank, peer) for rank, peer in enumerate(answers) if peer is not None), None)


def first_unreachable(devices: Sequence[RankDevice], rank: int) -> int | None:
    """Return the first rank whose GPU's memory this rank's GPU cannot reach, or None.

    PyTorch's shared memory between GPUs wants a number of its own for the GPU of each rank, too.

    Args:
        devices: of the ranks.
        rank: of this process.
    """
    own = devices[rank]
    visible = {device_uuid(torch.device("cuda", n)): n for n in range(torch.cuda.device_count())}
    for other, device in enumerate(devices):
        if other == rank:
            continue
        index = visible.get(device.uuid)
        if index is None or device.index == own.index:
            return other
        if not torch.cuda.can_device_access_peer(own.index, index):
            return other
    return None


def _gather(value: T) -> list[T]:
    values: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return cast(list[T], values)
