"""Ring attention: keys and values travel between groups of ranks while each rank attends to those it holds.

Shapes: B batch · L tokens of a group · H heads of a rank · E head width.
"""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from livetalk.ops.attention_lse import merge_attention
from livetalk.parallel.collectives import finish_exchange, start_exchange
from livetalk.parallel.mesh import Axis, ParallelMesh
from livetalk.parallel.shard import Shard
from livetalk.parallel.ulysses import group_sizes


@runtime_checkable
class PartialCore(Protocol):
    """An attention core that can attend to a subset of the keys."""

    def with_lse(self, q_BLNE: Tensor, k_BSNE: Tensor, v_BSNE: Tensor) -> tuple[Tensor, Tensor]:
        """Return output and log-sum-exp; see `livetalk.ops.attention_lse`."""


class RingAttention(nn.Module):
    """Replaces an attention core if keys and values are sharded over groups of ranks."""

    def __init__(self, core: PartialCore, shard: Shard, mesh: ParallelMesh) -> None:
        """Wrap a core that attends to one group's keys at a time."""
        super().__init__()
        self.core = core
        self._shard = shard
        self._mesh = mesh

    def forward(self, q_BLHE: Tensor, k_BLHE: Tensor, v_BLHE: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend from this group's tokens to those of all groups; the result has the dtype of `v_BLHE`.

        Keys are sent in the dtype of the values. A mask raises `ValueError`.
        """
        if mask is not None:
            raise ValueError("attention over ranks takes no mask")
        axis = self._mesh.ring
        groups = [sum(group_sizes(self._shard, self._mesh, group)) for group in range(axis.size)]
        # Tokens outermost, because the number of tokens is the only size that differs between ranks.
        held = torch.stack((k_BLHE.type_as(v_BLHE), v_BLHE)).movedim(2, 0)
        parts = []
        for turn in range(axis.size):
            last = turn == axis.size - 1
            following = None if last else _start_send(held, groups[(axis.rank - turn - 1) % axis.size], axis)
            k, v = held.movedim(0, 2).unbind(0)
            # The next group's keys arrive during this attention.
            parts.append(self.core.with_lse(q_BLHE, k, v))
            if following is not None:
                held = finish_exchange(following)
        return merge_attention(parts)[0]


def _start_send(held: Tensor, arriving: int, axis: Axis) -> Tensor:
    """Start to send keys and values to the next rank and to receive `arriving` rows from the previous one."""
    sent, received = [0] * axis.size, [0] * axis.size
    sent[(axis.rank + 1) % axis.size] = held.shape[0]
    received[(axis.rank - 1) % axis.size] = arriving
    return start_exchange(held, sent, received, axis)
