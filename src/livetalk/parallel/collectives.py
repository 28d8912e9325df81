"""Collectives along a mesh axis whose shards may differ in size.

`torch.compile` traces all of them without a graph break. None supports gradients.
"""

from collections.abc import Sequence

import torch

# Registers the operators of `torch.ops._c10d_functional`.
import torch.distributed._functional_collectives as _  # noqa: F401
from torch import Tensor

from livetalk.parallel.mesh import Axis


def start_exchange(parts: Tensor, sent: Sequence[int], received: Sequence[int], axis: Axis) -> Tensor:
    """Start an all-to-all of rows; computation may continue until `finish_exchange`.

    `parts`, `[n, ...]`, are the rows for ranks 0, 1, ... concatenated; `sent` and `received` count the rows
    for and from each rank. Returns an asynchronous tensor of the received rows in rank order.

    Raises:
        ValueError: the counts do not fit the axis or `parts`.
    """
    if len(sent) != axis.size or len(received) != axis.size or sum(sent) != parts.shape[0]:
        raise ValueError(
            f"{list(sent)} sent and {list(received)} received do not fit {axis.size} ranks and "
            f"{parts.shape[0]} rows"
        )
    # The functional operator: `dist.all_to_all_single` would break the graph of a compiled block.
    pending: Tensor = torch.ops._c10d_functional.all_to_all_single(
        parts.contiguous(), list(received), list(sent), axis.group_name
    )
    return pending


def finish_exchange(pending: Tensor) -> Tensor:
    """Make later computation on this device wait for an exchange, and return the received rows."""
    value: Tensor = torch.ops._c10d_functional.wait_tensor(pending)
    return value


def exchange(parts: Tensor, sent: Sequence[int], received: Sequence[int], axis: Axis) -> Tensor:
    """Run a blocking all-to-all; see `start_exchange`."""
    return finish_exchange(start_exchange(parts, sent, received, axis))


def gather(x: Tensor, dim: int, sizes: Sequence[int], axis: Axis) -> Tensor:
    """All-gather shards of different sizes along `dim`; the result is bit-identical on all ranks.

    `sizes` are the sizes of all shards. In memory `dim` is outermost.

    Raises:
        ValueError: `x` does not have this rank's size.
    """
    if len(sizes) != axis.size or x.shape[dim] != sizes[axis.rank]:
        raise ValueError(f"shard of {x.shape[dim]} on rank {axis.rank} does not fit the sizes {list(sizes)}")
    if axis.size == 1:
        return x
    rows, largest = x.movedim(dim, 0), max(sizes)
    if rows.shape[0] < largest:
        # all_gather_into_tensor takes equal shards only; the padding is removed after the transfer.
        rows = torch.cat((rows, rows.new_zeros(largest - rows.shape[0], *rows.shape[1:])))
    gathered: Tensor = torch.ops._c10d_functional.all_gather_into_tensor(
        rows.contiguous(), axis.size, axis.group_name
    )
    gathered = torch.ops._c10d_functional.wait_tensor(gathered)
    if min(sizes) < largest:
        padded = gathered.view(axis.size, largest, *rows.shape[1:]).unbind(0)
        gathered = torch.cat([part[:size] for part, size in zip(padded, sizes, strict=True)])
    return gathered.movedim(0, dim)
