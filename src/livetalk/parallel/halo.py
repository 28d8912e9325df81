"""Columns of the neighbours: what a convolution sees beyond the edge of its rank's piece of a frame.

Shapes: B batch · C channels · T frames · H height · W a rank's columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from livetalk.models.vae_cache import CachePass
from livetalk.parallel.collectives import exchange
from livetalk.parallel.mesh import Axis, Piece
from livetalk.parallel.shard import Shard


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How far a layer sees to either side, and what it does to the width.

    Attributes:
        left: columns that a value depends on to its left, in columns of the input.
        right: columns that it depends on to its right.
        up: columns of output for every `down` columns of input.
        down: see `up`.
    """

    left: int
    right: int
    up: int = 1
    down: int = 1


class HaloLayer(nn.Module):
    """A layer of convolutions whose rank holds some columns only: borrow, compute, cut off.

    At a cut the layer pads its input as at the edge of the frame, which spoils as many columns as it sees
    beyond: these are the borrowed ones. The edge of the frame itself is padded as ever. What the layer
    remembers of earlier frames includes their borrowed columns.
    """

    def __init__(self, inner: nn.Module, shard: Shard, reach: Reach) -> None:
        """Borrow for a layer.

        Args:
            inner: called with frames and the pass's cache.
            shard: how the columns of the latents are cut; columns at higher rates are cut alike.
            reach: of the layer.
        """
        super().__init__()
        self.inner = inner
        self._shard = shard
        self._reach = reach

    def forward(self, x: Tensor, cache: CachePass | None = None) -> Tensor:
        """Return this rank's columns of what the layer makes of the whole frames; x is `[B, C, T, H, W]`."""
        reach, axis = self._reach, self._shard.axis
        rate = x.shape[4] // self._shard.own.size
        pieces = [Piece(piece.start * rate, piece.stop * rate) for piece in self._shard.pieces]
        wide = borrow_columns(x, pieces, reach, axis)
        y: Tensor = self.inner(wide, cache)
        own = pieces[axis.rank]
        start = min(reach.left, own.start) * reach.up // reach.down
        width = own.size * reach.up // reach.down
        return y if width == y.shape[4] else y[..., start : start + width]


def borrow_columns(x: Tensor, pieces: Sequence[Piece], reach: Reach, axis: Axis) -> Tensor:
    """Put the neighbours' nearest columns at the sides of a rank's own.

    Neighbours with fewer columns than are wanted are looked past.

    Args:
        x: `[B, C, T, H, W]`, this rank's columns.
        pieces: the columns of every rank.
        reach: how many to borrow.
        axis: along which the columns are cut.

    Returns:
        `[B, C, T, H, W + n]` in channels_last_3d memory; n is less at the sides of the frame.
    """
    own = pieces[axis.rank]
    columns = x.permute(4, 0, 2, 3, 1)
    lent = [own.overlap(_wanted(pieces, rank, reach, axis.rank)) for rank in range(axis.size)]
    borrowed = [
        pieces[rank].overlap(_wanted(pieces, axis.rank, reach, rank)).size for rank in range(axis.size)
    ]
    parts = torch.cat([columns[piece.start - own.start : piece.stop - own.start] for piece in lent])
    arrived = exchange(parts, [piece.size for piece in lent], borrowed, axis).permute(1, 4, 2, 3, 0)
    num_left = sum(borrowed[: axis.rank])
    sides = arrived[..., :num_left], arrived[..., num_left:]
    # In this layout the channels lie together already, which keeps the layout of the result.
    left, right = (side.contiguous(memory_format=torch.channels_last_3d) for side in sides)
    return torch.cat((left, x, right), dim=4).contiguous(memory_format=torch.channels_last_3d)


def _wanted(pieces: Sequence[Piece], rank: int, reach: Reach, lender: int) -> Piece:
    """Return the columns that a rank wants from its left or its right, wherever the lender is."""
    piece = pieces[rank]
    if lender == rank:
        return Piece(piece.start, piece.start)
    if lender < rank:
        return Piece(max(0, piece.start - reach.left), piece.start)
    return Piece(piece.stop, min(pieces[-1].stop, piece.stop + reach.right))
