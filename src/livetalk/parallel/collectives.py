"""Exchanges between the ranks of an axis, of pieces that need not be equal.

All of them are functions of tensors that `torch.compile` traces without a break. They carry no gradients.
"""

from collections.abc import Sequence

import torch

# Registers the operators below.
import torch.distributed._functional_collectives as _  # noqa: F401
from torch import Tensor

from livetalk.parallel.mesh import Axis


def start_exchange(parts: Tensor, sent: Sequence[int], received: Sequence[int], axis: Axis) -> Tensor:
    """Begin to send a part to every rank and to receive one from each; what follows may run meanwhile.

    Args:
        parts: the parts for ranks 0, 1, ... one after the other, `[n, ...]`; parts of size 0 are not sent.
        sent: rows for each rank, n in all.
        received: rows from each rank, m in all; what its sender has as `sent` for this rank.
        axis: of at least two ranks.

    Returns:
        A promise of `[m, ...]`, in order of the senders; pass it to `finish_exchange` before use.

    Raises:
        ValueError: the sizes do not fit.
    """
    if len(sent) != axis.size or len(received) != axis.size or sum(sent) != parts.shape[0]:
        raise ValueError(
            f"{list(sent)} sent and {list(received)} received do not fit {axis.size} ranks and "
            f"{parts.shape[0]} rows"
        )
    promise: Tensor = torch.ops._c10d_functional.all_to_all_single(
        parts.contiguous(), list(received), list(sent), axis.group_name
    )
    return promise


def finish_exchange(promise: Tensor) -> Tensor:
    """Let the computation from here on wait for an exchange, and return what it brought."""
    value: Tensor = torch.ops._c10d_functional.wait_tensor(promise)
    return value


def exchange(parts: Tensor, sent: Sequence[int], received: Sequence[int], axis: Axis) -> Tensor:
    """Do both halves of an exchange, see `start_exchange`."""
    return finish_exchange(start_exchange(parts, sent, received, axis))


def gather(x: Tensor, dim: int, sizes: Sequence[int], axis: Axis) -> Tensor:
    """Put the pieces of all ranks together on all ranks.

    Args:
        x: this rank's piece.
        dim: along which the pieces follow one another.
        sizes: of the pieces along `dim`, by rank.
        axis: that the pieces are cut along.

    Returns:
        The whole tensor, `sum(sizes)` along `dim`, bit for bit equal on all ranks. In memory `dim` is
        outermost.

    Raises:
        ValueError: `x` does not have this rank's size.
    """
    if len(sizes) != axis.size or x.shape[dim] != sizes[axis.rank]:
        raise ValueError(f"piece of {x.shape[dim]} on rank {axis.rank} does not fit the sizes {list(sizes)}")
    if axis.size == 1:
        return x
    rows, largest = x.movedim(dim, 0), max(sizes)
    if rows.shape[0] < largest:
        # The operator takes equal pieces only; what is added here is cut off again below.
        rows = torch.cat((rows, rows.new_zeros(largest - rows.shape[0], *rows.shape[1:])))
    gathered: Tensor = torch.ops._c10d_functional.all_gather_into_tensor(
        rows.contiguous(), axis.size, axis.group_name
    )
    gathered = torch.ops._c10d_functional.wait_tensor(gathered)
    if min(sizes) < largest:
        padded = gathered.view(axis.size, largest, *rows.shape[1:]).unbind(0)
        gathered = torch.cat([part[:size] for part, size in zip(padded, sizes, strict=True)])
    return gathered.movedim(0, dim)
