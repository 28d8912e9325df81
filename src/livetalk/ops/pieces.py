"""Cutting a row of things into one piece for each of those who share it."""

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a row of things.

    Attributes:
        start: its first.
        stop: the one after its last.
    """

    start: int
    stop: int

    @property
    def size(self) -> int:
        """How many there are."""
        return self.stop - self.start

    @property
    def span(self) -> slice:
        """The stretch as a slice."""
        return slice(self.start, self.stop)

    def overlap(self, other: "Piece") -> "Piece":
        """Return what both have, an empty piece if nothing."""
        start = max(self.start, other.start)
        return Piece(start, max(start, min(self.stop, other.stop)))


def cut(total: int, num_pieces: int) -> tuple[Piece, ...]:
    """Cut `total` things in order into pieces whose sizes differ by one at most, the larger ones first."""
    size, larger = divmod(total, num_pieces)
    starts = [index * size + min(index, larger) for index in range(num_pieces + 1)]
    return tuple(Piece(start, stop) for start, stop in pairwise(starts))
