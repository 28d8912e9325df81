"""Even partition of a range of indices."""

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class IndexRange:
    """Indices `start` to `stop`, exclusive."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start

    @property
    def span(self) -> slice:
        return slice(self.start, self.stop)

    def overlap(self, other: "IndexRange") -> "IndexRange":
        """Return the common indices; the result may be empty."""
        start = max(self.start, other.start)
        return IndexRange(start, max(start, min(self.stop, other.stop)))


def split_evenly(total: int, num_parts: int) -> tuple[IndexRange, ...]:
    """Split `range(total)` into ranges whose sizes differ by at most one, the larger ones first."""
    size, larger = divmod(total, num_parts)
    starts = [index * size + min(index, larger) for index in range(num_parts + 1)]
    return tuple(IndexRange(start, stop) for start, stop in pairwise(starts))
