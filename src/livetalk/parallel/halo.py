"""Halo exchange for convolutions over frames that are sharded across ranks.

A line is a row or a column of pixels, depending on the sharded dimension. A tensor between two layers may
carry stale halo lines beside the rank's own lines. The next layer overwrites them in place, so that the own
lines, nearly the whole tensor, are not copied.

Shapes: B batch · C channels · T frames · H W height and width of a rank's shard.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from livetalk.models.vae_cache import CachePass
from livetalk.ops.partition import IndexRange
from livetalk.parallel.collectives import finish_exchange, start_exchange
from livetalk.parallel.mesh import Axis
from livetalk.parallel.shard import Shard


@dataclass(frozen=True, slots=True, kw_only=True)
class HaloSizes:
    """Number of halo lines at each border of a shard; fewer at the edge of the frame."""

    on_input: int  # stale lines that come with the input: equal to `exchanged`, or 0
    exchanged: int  # lines received from each neighbour before the layer runs
    on_output: int  # stale lines that the output keeps, at most those computed from `exchanged`


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Resolution along the sharded side relative to the latents, before and after a layer."""

    before: int
    after: int


class HaloLayer(nn.Module):
    """A convolutional layer on a shard of the frame, which receives its halo from the neighbouring ranks.

    The layer zero-pads at a cut as at the edge of the frame, which corrupts only halo lines; these are
    cropped. The cache of earlier frames includes their halo lines.
    """

    def __init__(self, inner: nn.Module, shard: Shard, halo: HaloSizes, rates: Rates) -> None:
        """Wrap `inner`; `rates` scale the shard's cuts from latents to the lines of the layer."""
        super().__init__()
        self.inner = inner
        self.halo = halo
        self._shard = shard
        self._rates = rates

    def forward(self, x: Tensor, cache: CachePass | None = None) -> Tensor:
        """Exchange the halo of `x`, `[B, C, T, H, W]`, which may be overwritten, and run the layer."""
        axis, dim, rates = self._shard.axis, self._shard.dim, self._rates
        before, after = self._ranges(rates.before), self._ranges(rates.after)
        y: Tensor = self.inner(exchange_halo(x, dim, before, self.halo, axis), cache)
        start = _with_halo(before, axis.rank, self.halo.exchanged).start * rates.after // rates.before
        on_output = _with_halo(after, axis.rank, self.halo.on_output)
        return y.narrow(dim, on_output.start - start, on_output.size)

    def _ranges(self, rate: int) -> list[IndexRange]:
        return [IndexRange(part.start * rate, part.stop * rate) for part in self._shard.ranges]


def exchange_halo(x: Tensor, dim: int, ranges: Sequence[IndexRange], halo: HaloSizes, axis: Axis) -> Tensor:
    """Return a rank's lines with the `exchanged` nearest lines of each neighbour beside them.

    If a neighbour has fewer lines than the halo needs, the ranks beyond it send the rest.

    Args:
        x: `[B, C, T, H, W]`, this rank's shard with `on_input` stale lines; reused as the result if
            `on_input` equals `exchanged` and it is in channels_last_3d memory, as the result always is.
        dim: 3 for rows, 4 for columns.
        ranges: the lines of every rank.
        halo: numbers of lines.
        axis: mesh axis over which the lines are sharded.
    """
    own, on_input = ranges[axis.rank], _with_halo(ranges, axis.rank, halo.on_input)
    own_lines = x.narrow(dim, own.start - on_input.start, own.size)
    # Lines outermost, channels innermost: each line is then one contiguous copy.
    lines = own_lines.permute(dim, 0, 2, 7 - dim, 1)
    sent = [_lines_sent(ranges, axis.rank, rank, halo.exchanged) for rank in range(axis.size)]
    num_received = [_lines_sent(ranges, rank, axis.rank, halo.exchanged).size for rank in range(axis.size)]
    parts = torch.cat([lines[part.start - own.start : part.stop - own.start] for part in sent])
    pending = start_exchange(parts, [part.size for part in sent], num_received, axis)
    num_before = sum(num_received[: axis.rank])
    # The local copy overlaps with the exchange.
    extended = _allocate_halo(x, own_lines, dim, (num_before, sum(num_received) - num_before), halo)
    # Back to [B, C, T, H, W].
    order = (1, 4, 2, 0, 3) if dim == 3 else (1, 4, 2, 3, 0)
    received = finish_exchange(pending).permute(order)
    before, after = received.tensor_split((num_before,), dim=dim)
    extended.narrow(dim, 0, before.shape[dim]).copy_(before)
    extended.narrow(dim, num_before + own.size, after.shape[dim]).copy_(after)
    return extended


def _allocate_halo(x: Tensor, own_lines: Tensor, dim: int, sides: tuple[int, int], halo: HaloSizes) -> Tensor:
    """Return a rank's lines in channels_last_3d memory between (before, after) undefined halo lines."""
    if halo.on_input == halo.exchanged:
        return x.contiguous(memory_format=torch.channels_last_3d)
    size = list(own_lines.shape)
    size[dim] += sum(sides)
    extended = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
    extended.narrow(dim, sides[0], own_lines.shape[dim]).copy_(own_lines)
    return extended


def _with_halo(ranges: Sequence[IndexRange], rank: int, num_lines: int) -> IndexRange:
    """Return a rank's range widened by `num_lines` on either side, within the frame."""
    part = ranges[rank]
    return IndexRange(max(0, part.start - num_lines), min(ranges[-1].stop, part.stop + num_lines))


def _lines_sent(ranges: Sequence[IndexRange], sender: int, receiver: int, num_lines: int) -> IndexRange:
    """Return the lines of `sender` in the halo of `receiver`."""
    if sender == receiver:
        return IndexRange(ranges[sender].start, ranges[sender].start)
    return ranges[sender].overlap(_with_halo(ranges, receiver, num_lines))
