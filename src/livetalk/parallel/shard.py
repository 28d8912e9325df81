"""The partition of a tensor over the ranks of an axis."""

from livetalk.errors import InputError
from livetalk.ops.partition import IndexRange, split_evenly
from livetalk.parallel.mesh import Axis


class Shard:
    """The ranges of all ranks along one dimension, shared by all layers that exchange data.

    A rank's own range does not determine the others, so the total size is recorded where a tensor enters the
    network and read inside. It is 0 before the first pass and then the same for every window of a stream.
    """

    def __init__(self, axis: Axis, things: str, dim: int) -> None:
        """Start empty; `things` is a plural noun for the elements, used in messages."""
        self.axis = axis
        self.total = 0
        self.dim = dim
        self._things = things

    def resize(self, total: int, dim: int | None = None) -> IndexRange:
        """Record the total size, and optionally another dimension; return this rank's range.

        Raises:
            InputError: there are more ranks than elements.
        """
        if total < self.axis.size:
            raise InputError(f"{self.axis.size} GPUs cannot share {total} {self._things}; use fewer GPUs")
        self.total = total
        self.dim = self.dim if dim is None else dim
        return self.own

    @property
    def ranges(self) -> tuple[IndexRange, ...]:
        return split_evenly(self.total, self.axis.size)

    @property
    def own(self) -> IndexRange:
        return self.ranges[self.axis.rank]

    @property
    def sizes(self) -> list[int]:
        return [part.size for part in self.ranges]
