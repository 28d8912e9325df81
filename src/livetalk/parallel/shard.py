"""How the thing that is passing through a network is cut over the ranks."""

from livetalk.errors import InputError
from livetalk.ops.pieces import Piece, cut
from livetalk.parallel.mesh import Axis


class Shard:
    """Sizes of all ranks' pieces, known to every layer that has to do with other ranks.

    A rank's own piece does not tell how large the others are. The whole size is noted on the way into the
    network and read inside; it is the same for every window of a stream, and tells nothing of its content.

    Attributes:
        axis: the ranks.
        total: size of what is passing; 0 before the first.
        dim: along which it is cut.
    """

    def __init__(self, axis: Axis, things: str, dim: int) -> None:
        """Start without anything.

        Args:
            axis: the ranks.
            things: what is cut, for messages.
            dim: along which tensors are cut, until `enter` says otherwise.
        """
        self.axis = axis
        self.total = 0
        self.dim = dim
        self._things = things

    def enter(self, total: int, dim: int | None = None) -> Piece:
        """Note a size before the cut.

        Args:
            total: of the whole.
            dim: along which tensors are cut; None as before.

        Returns:
            The piece that is this rank's.

        Raises:
            InputError: there are more ranks than things.
        """
        if total < self.axis.size:
            raise InputError(f"{self.axis.size} GPUs cannot share {total} {self._things}; use fewer GPUs")
        self.total = total
        self.dim = self.dim if dim is None else dim
        return self.own

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The pieces of all ranks."""
        return cut(self.total, self.axis.size)

    @property
    def own(self) -> Piece:
        """The piece of this rank."""
        return self.pieces[self.axis.rank]

    @property
    def sizes(self) -> list[int]:
        """The sizes of the pieces."""
        return [piece.size for piece in self.pieces]
