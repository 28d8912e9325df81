"""Attention of tokens that are spread over ranks: exchange tokens for heads, attend, exchange back.

Fused kernels write queries, keys and values straight into a parcel: the memory that the exchange sends from,
or the memory of the GPUs that want them. What attention found can be taken as it arrives. See
`UlyssesAttention.attend_projected`.

Shapes: B batch · L a rank's tokens · M the tokens of all ranks of the axis · N heads · H a rank's heads ·
E head width · P ranks of the axis.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn

from livetalk.errors import InputError
from livetalk.ops.attention_float8 import QuantizedAttention, QuantizedHeads, attend_quantized
from livetalk.ops.backends import takes_bytes
from livetalk.ops.kernels.interface import FusedKernels, HeadRange
from livetalk.ops.kernels.projected import KEYS, Projected, ProjectedCore, attend_split, measure_heads
from livetalk.ops.low_precision import FLOAT8
from livetalk.ops.pieces import Piece, cut
from livetalk.parallel.collectives import exchange, gather
from livetalk.parallel.mesh import Axis, ParallelMesh
from livetalk.parallel.peer_memory import PeerMemory
from livetalk.parallel.shard import Shard


class Parcel(NamedTuple):
    """Queries, keys and values on their way to the ranks that attend with them.

    Attributes:
        targets: where to write each of the three, for each of P ranks its heads: `[B, L, H, E]`.
        memory: what is sent, `[P, L, B, 3, H, E]`; through the memory of peers, where things arrive here,
            `[M, B, 3, H, E]`.
    """

    targets: Sequence[Sequence[Tensor]]
    memory: Tensor


class UlyssesAttention(ProjectedCore):
    """Takes the place of an attention core; every rank attends with some of the heads to all tokens."""

    def __init__(
        self,
        core: nn.Module,
        shard: Shard,
        mesh: ParallelMesh,
        num_heads: int,
        peers: PeerMemory | None = None,
    ) -> None:
        """Exchange around another core.

        Args:
            core: attends `[B, M, H, E]`; called with queries, keys and values.
            shard: how the window's tokens are cut.
            mesh: the ranks.
            num_heads: heads N of the queries that come in; ranks may get different numbers of them.
            peers: parcels travel through it. None for the way of everything else.

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
        self._heads = cut(num_heads, axis.size)
        self._peers = peers

    def forward(self, q_BLNE: Tensor, k_BSNE: Tensor, v_BSNE: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend from this rank's tokens to all tokens.

        Args:
            q_BLNE: queries of this rank's tokens.
            k_BSNE: their keys; S = L.
            v_BSNE: their values. Queries and keys travel in its dtype, as attention would round them anyway.
            mask: None; all tokens of a window see one another.

        Returns:
            `[B, L, N, E]` in the dtype of `v_BSNE`.

        Raises:
            ValueError: there is a mask.
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
        """Let kernels write heads into parcels, in one byte where the inner core attends to bytes."""
        if not self.takes_parcels:
            return attend_split(self, parts, num_heads, kernels)
        if takes_bytes(self.core):
            return self._attend_in_bytes(parts, num_heads, kernels, by_rank=by_rank)
        batch, _, width = parts[0].product.shape
        parcel = self.new_parcel(batch, width // num_heads, parts[0].product.dtype)
        for part, targets in zip(parts, parcel.targets, strict=True):
            kernels.split_heads(*part, (num_heads, len(targets)), out=targets)
        return self.return_heads(self.core(*self.exchange_parcel(parcel)))

    def _attend_in_bytes(
        self, parts: Sequence[Projected], num_heads: int, kernels: FusedKernels, *, by_rank: bool
    ) -> Tensor | Sequence[Tensor]:
        """Round heads by their range on all ranks, then exchange bytes."""
        batch, _, width = parts[0].product.shape
        heads, spreads = measure_heads(parts, num_heads, kernels)
        everywhere = self.gather_bounds(torch.cat([spread.bounds for spread in spreads]))
        spreads = [HeadRange(bounds) for bounds in kernels.join_ranges(everywhere).bounds.chunk(len(parts))]
        parcel = self.new_parcel(batch, width // num_heads, FLOAT8)
        scales = [
            kernels.quantize_heads_into(part, spread, targets, centre=index == KEYS)[:, self.own_heads]
            for index, (part, spread, targets) in enumerate(zip(heads, spreads, parcel.targets, strict=True))
        ]
        arrived = [QuantizedHeads(*part) for part in zip(self.exchange_parcel(parcel), scales, strict=True)]
        room = self.room_for_heads(batch, width // num_heads, torch.bfloat16) if by_rank else None
        found = attend_quantized(QuantizedAttention(*arrived), room)
        return self.return_heads(found) if room is None else self.reach_heads(found)

    @property
    def takes_parcels(self) -> bool:
        """All ranks get equally many heads, so that parcels can be used."""
        return len({piece.size for piece in self._heads}) == 1

    @property
    def own_heads(self) -> slice:
        """The heads that this rank attends with."""
        return self._heads[self._mesh.ulysses.rank].span

    def new_parcel(self, batch: int, width: int, dtype: torch.dtype) -> Parcel:
        """Return room for what is to be exchanged, if `takes_parcels`; it is to be sent before the next one.

        Args:
            batch: B.
            width: E.
            dtype: of queries, keys and values.
        """
        axis, tokens = self._mesh.ulysses, self._tokens()
        own, row = tokens[axis.rank], (batch, 3, self._heads[0].size, width)
        if self._peers is None:
            memory = torch.empty((axis.size, own, *row), dtype=dtype, device=self._mesh.device)
            shares = list(memory.unbind(0))
        else:
            rooms = self._peers.open("parcels", (sum(tokens), *row), dtype)
            start = sum(tokens[: axis.rank])
            memory, shares = rooms[axis.rank], [room[start : start + own] for room in rooms]
        return Parcel([[x[:, :, part].transpose(0, 1) for x in shares] for part in range(3)], memory)

    def exchange_parcel(self, parcel: Parcel) -> tuple[Tensor, Tensor, Tensor]:
        """Send a parcel; return queries, keys and values of all tokens, each `[B, M, H, E]`."""
        if self._peers is not None:
            self._peers.meet("parcels")
            return _parts_of(parcel.memory)
        axis, tokens = self._mesh.ulysses, self._tokens()
        # In bytes: not every transport knows numbers of eight bits.
        rows = parcel.memory.view(torch.uint8).flatten(0, 1)
        arrived = exchange(rows, [tokens[axis.rank]] * axis.size, tokens, axis)
        return _parts_of(arrived.view(parcel.memory.dtype))

    def return_heads(self, y_BMHE: Tensor) -> Tensor:
        """Send back what attention found, if `takes_parcels`; return `[B, L, P, H * E]`, P outermost."""
        axis, tokens = self._mesh.ulysses, self._tokens()
        rows = y_BMHE.transpose(0, 1).flatten(2)
        own = tokens[axis.rank]
        if self._peers is None:
            arrived = exchange(rows, tokens, [own] * axis.size, axis)
        else:
            places = [axis.rank * num_tokens for num_tokens in tokens]
            size = axis.size * max(tokens)
            arrived = self._peers.exchange("heads", torch.split(rows.contiguous(), tokens), places, size)
            arrived = arrived[: axis.size * own]
        return arrived.view(axis.size, own, *arrived.shape[1:]).permute(2, 1, 0, 3)

    def room_for_heads(self, batch: int, width: int, dtype: torch.dtype) -> Tensor | None:
        """Return where attention may leave what it finds for all ranks to read, if `takes_parcels`.

        Args:
            batch: B.
            width: E.
            dtype: of what attention finds.

        Returns:
            `[B, M, H, E]`; None where ranks do not reach each other's memory.
        """
        if self._peers is None:
            return None
        return self._heads_of_ranks(self._peers, batch, width, dtype)[self._mesh.ulysses.rank]

    def reach_heads(self, y_BMHE: Tensor) -> list[Tensor]:
        """Return what all ranks found of this one's tokens, where it lies: P times `[B, L, H, E]`.

        Args:
            y_BMHE: what attention found, in the `room_for_heads`.

        Raises:
            ValueError: there is no such room.
        """
        if self._peers is None:
            raise ValueError("heads can only be reached in the memory of peers")
        self._peers.meet("heads")
        axis, tokens = self._mesh.ulysses, self._tokens()
        start = sum(tokens[: axis.rank])
        found = self._heads_of_ranks(self._peers, y_BMHE.shape[0], y_BMHE.shape[3], y_BMHE.dtype)
        return [y[:, start : start + tokens[axis.rank]] for y in found]

    def _heads_of_ranks(self, peers: PeerMemory, batch: int, width: int, dtype: torch.dtype) -> list[Tensor]:
        """Return the rooms for what the ranks' attention finds, P times `[B, M, H, E]`."""
        shape = (sum(self._tokens()), batch, self._heads[0].size, width)
        return [room.transpose(0, 1) for room in peers.open("heads", shape, dtype)]

    def gather_bounds(self, bounds: Tensor) -> Tensor:
        """Let all ranks know what each found of its own tokens.

        Args:
            bounds: `[B, 3, N, E]` float32: lowest, highest, mean; overwritten.

        Returns:
            `[P, B, 3, N, E]`: as above, but the mean times the rank's share of the tokens.
        """
        axis, tokens = self._mesh.ulysses, self._tokens()
        bounds[:, 2].mul_(tokens[axis.rank] / sum(tokens))
        if self._peers is None:
            return gather(bounds[None], 0, [1] * axis.size, axis)
        places = [axis.rank] * axis.size
        return self._peers.exchange("bounds", [bounds[None]] * axis.size, places, axis.size)

    def _tokens(self) -> list[int]:
        """Return the number of tokens of every rank of the axis."""
        return group_sizes(self._shard, self._mesh, self._mesh.ring.rank)


def _parts_of(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values `[B, M, H, E]` of `[M, B, 3, H, E]`."""
    q, k, v = qkv.transpose(0, 1).unbind(2)
    return q, k, v


def group_sizes(shard: Shard, mesh: ParallelMesh, group: int) -> list[int]:
    """Return the number of tokens of every rank of a group, by the group's place in the ring."""
    size = mesh.ulysses.size
    return shard.sizes[group * size : (group + 1) * size]


def scatter_heads(
    parts: Sequence[Tensor], tokens: Sequence[int], heads: Sequence[Piece], axis: Axis
) -> Tensor:
    """Turn some tokens with all heads into all tokens with some heads, in one exchange.

    Args:
        parts: queries, keys and values, each `[B, L, N, E]`.
        tokens: number of tokens of each rank.
        heads: that each rank gets.
        axis: of the exchange.

    Returns:
        `[M, B, 3, H, E]` in the dtype of the last part.
    """
    dtype = parts[-1].dtype
    batch, own, _, width = parts[0].shape
    own_heads = heads[axis.rank].size
    sent = [own * piece.size for piece in heads]
    received = [count * own_heads for count in tokens]
    if len({piece.size for piece in heads}) == 1:
        # One pass over the data: [ranks, L, B, 3, H, E].
        shape = (batch, own, axis.size, own_heads, width)
        split = [x.to(dtype).view(shape).permute(2, 1, 0, 3, 4) for x in parts]
        packed = torch.stack(split, dim=3)
    else:
        stacked = torch.stack([x.to(dtype).transpose(0, 1) for x in parts], dim=2)
        packed = torch.cat([stacked[:, :, :, piece.span].flatten() for piece in heads])
    # Whole rows of (batch, part, width) travel. Tokens come first: then each rank's share is one stretch.
    arrived = exchange(packed.reshape(-1, batch * len(parts) * width), sent, received, axis)
    return arrived.view(-1, batch, len(parts), own_heads, width)


def gather_heads(y_BMHE: Tensor, tokens: Sequence[int], heads: Sequence[Piece], axis: Axis) -> Tensor:
    """Turn all tokens with some heads back into some tokens with all heads.

    Args:
        y_BMHE: what attention made.
        tokens: number of tokens of each rank.
        heads: that each rank has.
        axis: of the exchange.

    Returns:
        `[B, L, N, E]`.
    """
    batch, _, own_heads, width = y_BMHE.shape
    own = tokens[axis.rank]
    sent = [count * own_heads for count in tokens]
    received = [own * piece.size for piece in heads]
    packed = y_BMHE.transpose(0, 1).reshape(-1, batch * width)
    arrived = exchange(packed, sent, received, axis)
    if len(set(received)) == 1:
        spread = arrived.view(axis.size, own, batch, own_heads, width).permute(2, 1, 0, 3, 4)
        return spread.flatten(2, 3)
    starts = accumulate(received, initial=0)
    shaped = [
        arrived[start : start + own * piece.size].view(own, batch, piece.size, width)
        for start, piece in zip(starts, heads, strict=False)
    ]
    return torch.cat(shaped, dim=2).transpose(0, 1)
