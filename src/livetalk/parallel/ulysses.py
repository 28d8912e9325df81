"""Ulysses attention: exchange tokens for heads, attend, exchange back.

Fused kernels write queries, keys and values directly into the send buffer, or into the peer buffers of the
GPUs that attend to them. Consumers can read attention results where they arrive; see
`UlyssesAttention.attend_projected`.

Shapes: B batch · L tokens of a rank · M tokens of all ranks of the axis · N heads · H heads of a rank ·
E head width · P ranks of the axis.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn

from livetalk.errors import InputError
from livetalk.ops.attention_float8 import QuantizedAttention, QuantizedHeads, attend_quantized
from livetalk.ops.backends import accepts_float8_heads
from livetalk.ops.kernels.interface import FusedKernels, HeadRange
from livetalk.ops.kernels.projected import KEYS, Projected, ProjectedCore, attend_split, measure_heads
from livetalk.ops.low_precision import FLOAT8
from livetalk.ops.partition import IndexRange, split_evenly
from livetalk.parallel.collectives import exchange, gather
from livetalk.parallel.mesh import Axis, ParallelMesh
from livetalk.parallel.peer_memory import PeerMemory
from livetalk.parallel.shard import Shard


class SendBuffer(NamedTuple):
    """Queries, keys and values for the ranks that attend with them.

    Attributes:
        targets: for each of the three, the tensors to write: `[B, L, H, E]` for each of P ranks.
        memory: the memory to send, `[P, L, B, 3, H, E]`; with peer memory, this rank's peer buffer,
            `[M, B, 3, H, E]`.
    """

    targets: Sequence[Sequence[Tensor]]
    memory: Tensor


class UlyssesAttention(ProjectedCore):
    """Replaces an attention core; every rank attends with some of the heads to all tokens."""

    def __init__(
        self,
        core: nn.Module,
        shard: Shard,
        mesh: ParallelMesh,
        num_heads: int,
        peers: PeerMemory | None = None,
    ) -> None:
        """Wrap a core that attends `[B, M, H, E]`; without `peers` exchanges are collectives.

        Raises:
            InputError: there are more ranks than heads.
        """
        super().__init__()
        axis = mesh.ulysses
        if num_heads < axis.size:
            raise InputError(
                f"{axis.size} GPUs cannot share {num_heads} attention heads; use a ring of groups of at most "
                f"{num_heads} GPUs"
            )
        self.core = core
        self._shard = shard
        self._mesh = mesh
        self._heads = split_evenly(num_heads, axis.size)
        self._peers = peers

    def forward(self, q_BLNE: Tensor, k_BSNE: Tensor, v_BSNE: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend from this rank's tokens to all tokens; return `[B, L, N, E]` in the dtype of `v_BSNE`.

        Queries and keys are sent in the dtype of the values, to which attention would round them. A mask
        raises `ValueError`.
        """
        if mask is not None:
            raise ValueError("attention over ranks takes no mask")
        tokens, axis = self._tokens(), self._mesh.ulysses
        qkv = scatter_heads((q_BLNE, k_BSNE, v_BSNE), tokens, self._heads, axis)
        y: Tensor = self.core(*_parts_of(qkv))
        return gather_heads(y, tokens, self._heads, axis)

    def attend_projected(
        self, parts: Sequence[Projected], num_heads: int, kernels: FusedKernels, *, by_rank: bool
    ) -> Tensor | Sequence[Tensor]:
        """Split projections directly into the send buffer, in FP8 if the inner core attends in FP8."""
        if not self.has_equal_heads:
            return attend_split(self, parts, num_heads, kernels)
        # Quantising before the exchange halves its bytes.
        if accepts_float8_heads(self.core):
            return self._attend_in_bytes(parts, num_heads, kernels, by_rank=by_rank)
        batch, _, width = parts[0].product.shape
        buffer = self.open_send_buffer(batch, width // num_heads, parts[0].product.dtype)
        for part, targets in zip(parts, buffer.targets, strict=True):
            kernels.split_heads(*part, (num_heads, len(targets)), out=targets)
        return self.return_results(self.core(*self.send_heads(buffer)))

    def _attend_in_bytes(
        self, parts: Sequence[Projected], num_heads: int, kernels: FusedKernels, *, by_rank: bool
    ) -> Tensor | Sequence[Tensor]:
        """Quantise heads by their range over all ranks, then exchange them."""
        batch, _, width = parts[0].product.shape
        heads, ranges = measure_heads(parts, num_heads, kernels)
        # A head's scale covers the tokens of all ranks, so that FP8 results do not depend on their number.
        gathered = self.gather_bounds(torch.cat([head_range.bounds for head_range in ranges]))
        ranges = [HeadRange(bounds) for bounds in kernels.join_ranges(gathered).bounds.chunk(len(parts))]
        buffer = self.open_send_buffer(batch, width // num_heads, FLOAT8)
        scales = [
            kernels.quantize_heads_into(part, head_range, targets, centre=index == KEYS)[:, self.own_heads]
            for index, (part, head_range, targets) in enumerate(
                zip(heads, ranges, buffer.targets, strict=True)
            )
        ]
        received = [QuantizedHeads(*part) for part in zip(self.send_heads(buffer), scales, strict=True)]
        results = self.open_result_buffer(batch, width // num_heads, torch.bfloat16) if by_rank else None
        found = attend_quantized(QuantizedAttention(*received), results)
        return self.return_results(found) if results is None else self.read_peer_results(found)

    @property
    def has_equal_heads(self) -> bool:
        """Whether all ranks hold equally many heads, which send buffers require."""
        return len({part.size for part in self._heads}) == 1

    @property
    def own_heads(self) -> slice:
        return self._heads[self._mesh.ulysses.rank].span

    def open_send_buffer(self, batch: int, width: int, dtype: torch.dtype) -> SendBuffer:
        """Return a buffer for queries, keys and values of width E; send it before opening the next.

        Requires `has_equal_heads`.
        """
        axis, tokens = self._mesh.ulysses, self._tokens()
        own, row = tokens[axis.rank], (batch, 3, self._heads[0].size, width)
        if self._peers is None:
            memory = torch.empty((axis.size, own, *row), dtype=dtype, device=self._mesh.device)
            shares = list(memory.unbind(0))
        else:
            buffers = self._peers.open("qkv", (sum(tokens), *row), dtype)
            start = sum(tokens[: axis.rank])
            memory, shares = buffers[axis.rank], [buffer[start : start + own] for buffer in buffers]
        return SendBuffer([[x[:, :, part].transpose(0, 1) for x in shares] for part in range(3)], memory)

    def send_heads(self, buffer: SendBuffer) -> tuple[Tensor, Tensor, Tensor]:
        """Send a buffer; return queries, keys and values of all tokens, each `[B, M, H, E]`."""
        if self._peers is not None:
            self._peers.barrier("qkv")
            return _parts_of(buffer.memory)
        axis, tokens = self._mesh.ulysses, self._tokens()
        # Sent as uint8, because not every backend supports FP8 dtypes.
        rows = buffer.memory.view(torch.uint8).flatten(0, 1)
        received = exchange(rows, [tokens[axis.rank]] * axis.size, tokens, axis)
        return _parts_of(received.view(buffer.memory.dtype))

    def return_results(self, y_BMHE: Tensor) -> Tensor:
        """Send attention results back; return `[B, L, P, H * E]`, P outermost in memory.

        Requires `has_equal_heads`.
        """
        axis, tokens = self._mesh.ulysses, self._tokens()
        rows = y_BMHE.transpose(0, 1).flatten(2)
        own = tokens[axis.rank]
        if self._peers is None:
            received = exchange(rows, tokens, [own] * axis.size, axis)
        else:
            offsets = [axis.rank * num_tokens for num_tokens in tokens]
            size = axis.size * max(tokens)
            received = self._peers.exchange("results", torch.split(rows.contiguous(), tokens), offsets, size)
            received = received[: axis.size * own]
        return received.view(axis.size, own, *received.shape[1:]).permute(2, 1, 0, 3)

    def open_result_buffer(self, batch: int, width: int, dtype: torch.dtype) -> Tensor | None:
        """Return the peer buffer `[B, M, H, E]` for this rank's attention results, None without peer memory.

        Requires `has_equal_heads`.
        """
        if self._peers is None:
            return None
        return self._result_buffers(self._peers, batch, width, dtype)[self._mesh.ulysses.rank]

    def read_peer_results(self, y_BMHE: Tensor) -> list[Tensor]:
        """Return the results for this rank's tokens in the peer buffers of all ranks: P times `[B, L, H, E]`.

        `y_BMHE` is the tensor from `open_result_buffer`. Raises `ValueError` without peer memory.
        """
        if self._peers is None:
            raise ValueError("there is no peer memory to read results from")
        self._peers.barrier("results")
        axis, tokens = self._mesh.ulysses, self._tokens()
        start = sum(tokens[: axis.rank])
        found = self._result_buffers(self._peers, y_BMHE.shape[0], y_BMHE.shape[3], y_BMHE.dtype)
        return [y[:, start : start + tokens[axis.rank]] for y in found]

    def _result_buffers(self, peers: PeerMemory, batch: int, width: int, dtype: torch.dtype) -> list[Tensor]:
        shape = (sum(self._tokens()), batch, self._heads[0].size, width)
        return [buffer.transpose(0, 1) for buffer in peers.open("results", shape, dtype)]

    def gather_bounds(self, bounds: Tensor) -> Tensor:
        """Gather the ranges of all ranks' heads, `[P, B, 3, N, E]`.

        `bounds`, `[B, 3, N, E]` float32, are minimum, maximum and mean of this rank's tokens; overwritten.
        """
        axis, tokens = self._mesh.ulysses, self._tokens()
        # Shards differ in size: the weighted means of all ranks add up to the mean of all tokens.
        bounds[:, 2].mul_(tokens[axis.rank] / sum(tokens))
        if self._peers is None:
            return gather(bounds[None], 0, [1] * axis.size, axis)
        offsets = [axis.rank] * axis.size
        return self._peers.exchange("bounds", [bounds[None]] * axis.size, offsets, axis.size)

    def _tokens(self) -> list[int]:
        """Return the number of tokens of every rank of the Ulysses axis."""
        return group_sizes(self._shard, self._mesh, self._mesh.ring.rank)


def _parts_of(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split `[M, B, 3, H, E]` into queries, keys and values `[B, M, H, E]`."""
    q, k, v = qkv.transpose(0, 1).unbind(2)
    return q, k, v


def group_sizes(shard: Shard, mesh: ParallelMesh, group: int) -> list[int]:
    """Return the number of tokens of every rank of a group, by the group's index in the ring."""
    size = mesh.ulysses.size
    return shard.sizes[group * size : (group + 1) * size]


def scatter_heads(
    parts: Sequence[Tensor], tokens: Sequence[int], heads: Sequence[IndexRange], axis: Axis
) -> Tensor:
    """Exchange a rank's tokens with all heads for all tokens with the rank's heads.

    `parts` are queries, keys and values, `[B, L, N, E]`; `tokens` and `heads` are those of all ranks. Returns
    `[M, B, 3, H, E]` in the dtype of the last part.
    """
    dtype = parts[-1].dtype
    batch, own, _, width = parts[0].shape
    own_heads = heads[axis.rank].size
    sent = [own * part.size for part in heads]
    received = [count * own_heads for count in tokens]
    # Equal head counts, the usual case, need one copy instead of one per rank.
    if len({part.size for part in heads}) == 1:
        # Shape after stacking: [ranks, L, B, 3, H, E].
        shape = (batch, own, axis.size, own_heads, width)
        split = [x.to(dtype).view(shape).permute(2, 1, 0, 3, 4) for x in parts]
        packed = torch.stack(split, dim=3)
    else:
        stacked = torch.stack([x.to(dtype).transpose(0, 1) for x in parts], dim=2)
        packed = torch.cat([stacked[:, :, :, part.span].flatten() for part in heads])
    # Rows are (batch, part, width). Tokens are outermost, so that each rank's share is contiguous.
    exchanged = exchange(packed.reshape(-1, batch * len(parts) * width), sent, received, axis)
    return exchanged.view(-1, batch, len(parts), own_heads, width)


def gather_heads(y_BMHE: Tensor, tokens: Sequence[int], heads: Sequence[IndexRange], axis: Axis) -> Tensor:
    """Exchange all tokens with a rank's heads for the rank's tokens with all heads; return `[B, L, N, E]`."""
    batch, _, own_heads, width = y_BMHE.shape
    own = tokens[axis.rank]
    sent = [count * own_heads for count in tokens]
    received = [own * part.size for part in heads]
    packed = y_BMHE.transpose(0, 1).reshape(-1, batch * width)
    exchanged = exchange(packed, sent, received, axis)
    if len(set(received)) == 1:
        in_rank_order = exchanged.view(axis.size, own, batch, own_heads, width).permute(2, 1, 0, 3, 4)
        return in_rank_order.flatten(2, 3)
    starts = accumulate(received, initial=0)
    shaped = [
        exchanged[start : start + own * part.size].view(own, batch, part.size, width)
        for start, part in zip(starts, heads, strict=False)
    ]
    return torch.cat(shaped, dim=2).transpose(0, 1)
