"""Lines of the neighbours: what a convolution sees beyond the edge of its rank's piece of a frame.

A line is a row or a column of pixels, whichever way frames are cut. Between two layers a rank's own lines may
have margins: lines beyond the cuts, whose values are worth nothing. The next layer writes what it borrows
over them, so that the own lines, which are nearly the whole picture, stay where they are in memory.

Shapes: B batch · C channels · T frames · H W height, width of a rank's piece.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from livetalk.models.vae_cache import CachePass
from livetalk.ops.pieces import Piece
from livetalk.parallel.collectives import finish_exchange, start_exchange
from livetalk.parallel.mesh import Axis
from livetalk.parallel.shard import Shard


@dataclass(frozen=True, slots=True, kw_only=True)
class Margins:
    """Lines beyond each cut, on the way through a layer; fewer where the frame ends before.

    Attributes:
        given: that come with the input, worth nothing: as many as are shown, or none.
        shown: that the layer computes with, borrowed from the neighbours.
        left: that go with the output, worth nothing; at most what the layer makes of those shown.
    """

    given: int
    shown: int
    left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Lines for each line of the latents, before and after a layer."""

    before: int
    after: int


class HaloLayer(nn.Module):
    """A layer of convolutions whose rank holds some lines only: it borrows those that it sees beyond.

    At a cut the layer pads its input as at the edge of the frame, which spoils as many lines as it sees
    beyond: these are borrowed ones. The edge of the frame itself is padded as ever. What the layer remembers
    of earlier frames includes their borrowed lines.
    """

    def __init__(self, inner: nn.Module, shard: Shard, margins: Margins, rates: Rates) -> None:
        """Borrow for a layer.

        Args:
            inner: called with frames and the pass's cache.
            shard: how the lines of the latents are cut; lines at higher rates are cut alike.
            margins: the same across rows and across columns.
            rates: of the layer.
        """
        super().__init__()
        self.inner = inner
        self.margins = margins
        self._shard = shard
        self._rates = rates

    def forward(self, x: Tensor, cache: CachePass | None = None) -> Tensor:
        """Make of this rank's piece what the layer makes of the whole frames.

        Args:
            x: `[B, C, T, H, W]` with the margins that are given, which may be overwritten.
            cache: of the pass.

        Returns:
            `[B, C', T, H', W']` with the margins that are left.
        """
        axis, dim, rates = self._shard.axis, self._shard.dim, self._rates
        before, after = self._pieces(rates.before), self._pieces(rates.after)
        y: Tensor = self.inner(borrow_lines(x, dim, before, self.margins, axis), cache)
        start = _surround(before, axis.rank, self.margins.shown).start * rates.after // rates.before
        left = _surround(after, axis.rank, self.margins.left)
        return y.narrow(dim, left.start - start, left.size)

    def _pieces(self, rate: int) -> list[Piece]:
        """Return the pieces of all ranks where each line of the latents is `rate` lines."""
        return [Piece(piece.start * rate, piece.stop * rate) for piece in self._shard.pieces]


def borrow_lines(x: Tensor, dim: int, pieces: Sequence[Piece], margins: Margins, axis: Axis) -> Tensor:
    """Put the neighbours' nearest lines at the sides of a rank's own.

    Neighbours with fewer lines than are wanted are looked past.

    Args:
        x: `[B, C, T, H, W]`, this rank's piece with the margins that are given.
        dim: 3 for rows, 4 for columns.
        pieces: the lines of every rank.
        margins: how many to borrow.
        axis: along which the lines are cut.

    Returns:
        This rank's piece with the margins to be shown, in channels_last_3d memory: that of `x` where all of
        them are given and the layout is right, new memory otherwise.
    """
    own, given = pieces[axis.rank], _surround(pieces, axis.rank, margins.given)
    mine = x.narrow(dim, own.start - given.start, own.size)
    # Lines first, channels last: in this order a line is copied in long stretches.
    lines = mine.permute(dim, 0, 2, 7 - dim, 1)
    lent = [_lent(pieces, axis.rank, rank, margins.shown) for rank in range(axis.size)]
    borrowed = [_lent(pieces, rank, axis.rank, margins.shown).size for rank in range(axis.size)]
    parts = torch.cat([lines[piece.start - own.start : piece.stop - own.start] for piece in lent])
    promise = start_exchange(parts, [piece.size for piece in lent], borrowed, axis)
    num_before = sum(borrowed[: axis.rank])
    wide = _make_room(x, mine, dim, (num_before, sum(borrowed) - num_before), margins)
    # The other way round again.
    order = (1, 4, 2, 0, 3) if dim == 3 else (1, 4, 2, 3, 0)
    arrived = finish_exchange(promise).permute(order)
    before, after = arrived.tensor_split((num_before,), dim=dim)
    wide.narrow(dim, 0, before.shape[dim]).copy_(before)
    wide.narrow(dim, num_before + own.size, after.shape[dim]).copy_(after)
    return wide


def _make_room(x: Tensor, mine: Tensor, dim: int, sides: tuple[int, int], margins: Margins) -> Tensor:
    """Return a rank's own lines with room beside them.

    Args:
        x: `[B, C, T, H, W]`, with the margins that are given.
        mine: the own lines of it.
        dim: 3 for rows, 4 for columns.
        sides: lines that are needed before and after.
        margins: of the layer.

    Returns:
        `[B, C, T, H, W]` in channels_last_3d memory; what is in the room is of no use.
    """
    if margins.given == margins.shown:
        return x.contiguous(memory_format=torch.channels_last_3d)
    size = list(mine.shape)
    size[dim] += sum(sides)
    room = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
    room.narrow(dim, sides[0], mine.shape[dim]).copy_(mine)
    return room


def _surround(pieces: Sequence[Piece], rank: int, margin: int) -> Piece:
    """Return a rank's piece with `margin` lines more on either side, as far as the frame goes."""
    piece = pieces[rank]
    return Piece(max(0, piece.start - margin), min(pieces[-1].stop, piece.stop + margin))


def _lent(pieces: Sequence[Piece], lender: int, borrower: int, margin: int) -> Piece:
    """Return what a rank has of the margin of another."""
    if lender == borrower:
        return Piece(pieces[lender].start, pieces[lender].start)
    return pieces[lender].overlap(_surround(pieces, borrower, margin))
