"""Lines of the neighbours: what a convolution sees beyond the edge of its rank's piece of a frame.

A line is a row or a column of pixels, whichever way frames are cut.

Shapes: B batch · C channels · T frames · H W height, width of a rank's piece.
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
    """How far a layer sees across a cut, and what it does to the number of lines.

    Attributes:
        before: lines that a value depends on before its own, in lines of the input.
        after: lines that it depends on after its own.
        up: lines of output for every `down` lines of input.
        down: see `up`.
    """

    before: int
    after: int
    up: int = 1
    down: int = 1


class HaloLayer(nn.Module):
    """A layer of convolutions whose rank holds some lines only: borrow, compute, cut off.

    At a cut the layer pads its input as at the edge of the frame, which spoils as many lines as it sees
    beyond: these are the borrowed ones. The edge of the frame itself is padded as ever. What the layer
    remembers of earlier frames includes their borrowed lines.
    """

    def __init__(self, inner: nn.Module, shard: Shard, reach: Reach) -> None:
        """Borrow for a layer.

        Args:
            inner: called with frames and the pass's cache.
            shard: how the lines of the latents are cut; lines at higher rates are cut alike.
            reach: of the layer, the same across rows and across columns.
        """
        super().__init__()
        self.inner = inner
        self._shard = shard
        self._reach = reach

    def forward(self, x: Tensor, cache: CachePass | None = None) -> Tensor:
        """Return this rank's piece of what the layer makes of the whole frames; x is `[B, C, T, H, W]`."""
        reach, axis, dim = self._reach, self._shard.axis, self._shard.dim
        rate = x.shape[dim] // self._shard.own.size
        pieces = [Piece(piece.start * rate, piece.stop * rate) for piece in self._shard.pieces]
        wide = borrow_lines(x, dim, pieces, reach, axis)
        y: Tensor = self.inner(wide, cache)
        own = pieces[axis.rank]
        start = min(reach.before, own.start) * reach.up // reach.down
        size = own.size * reach.up // reach.down
        return y if size == y.shape[dim] else y.narrow(dim, start, size)


def borrow_lines(x: Tensor, dim: int, pieces: Sequence[Piece], reach: Reach, axis: Axis) -> Tensor:
    """Put the neighbours' nearest lines at the sides of a rank's own.

    Neighbours with fewer lines than are wanted are looked past.

    Args:
        x: `[B, C, T, H, W]`, this rank's piece.
        dim: 3 for rows, 4 for columns.
        pieces: the lines of every rank.
        reach: how many to borrow.
        axis: along which the lines are cut.

    Returns:
        x with lines added along `dim`, in channels_last_3d memory; fewer at the edges of the frame.
    """
    own = pieces[axis.rank]
    # Lines first, channels last: in this order a line is copied in long stretches.
    lines = x.permute(dim, 0, 2, 7 - dim, 1)
    lent = [own.overlap(_wanted(pieces, rank, reach, axis.rank)) for rank in range(axis.size)]
    borrowed = [
        pieces[rank].overlap(_wanted(pieces, axis.rank, reach, rank)).size for rank in range(axis.size)
    ]
    parts = torch.cat([lines[piece.start - own.start : piece.stop - own.start] for piece in lent])
    arrived = exchange(parts, [piece.size for piece in lent], borrowed, axis)
    order = (1, 4, 2, 0, 3) if dim == 3 else (1, 4, 2, 3, 0)
    arrived, num_before = arrived.permute(order), sum(borrowed[: axis.rank])
    sides = arrived.narrow(dim, 0, num_before), arrived.narrow(dim, num_before, sum(borrowed) - num_before)
    # The parts must agree in layout, or the whole would get another.
    before, after = (side.contiguous(memory_format=torch.channels_last_3d) for side in sides)
    return torch.cat((before, x, after), dim=dim).contiguous(memory_format=torch.channels_last_3d)


def _wanted(pieces: Sequence[Piece], rank: int, reach: Reach, lender: int) -> Piece:
    """Return the lines that a rank wants before or after its own, whichever the lender may have."""
    piece = pieces[rank]
    if lender == rank:
        return Piece(piece.start, piece.start)
    if lender < rank:
        return Piece(max(0, piece.start - reach.before), piece.start)
    return Piece(piece.stop, min(pieces[-1].stop, piece.stop + reach.after))
