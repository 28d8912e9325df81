"""How a transformer will run, as far as what is computed ahead of its steps depends on it."""

from dataclasses import dataclass

from livetalk.ops.partition import IndexRange, split_evenly


@dataclass(frozen=True, slots=True)
class TokenShare:
    """Which of the tokens of a window the blocks compute: one of several pieces of nearly equal size.

    Attributes:
        index: of the piece, from 0.
        num_pieces: that a window is cut into, see `livetalk.ops.partition.cut`.
    """

    index: int = 0
    num_pieces: int = 1

    def of(self, num_tokens: int) -> IndexRange:
        """Return the tokens of a window of `num_tokens`."""
        return split_evenly(num_tokens, self.num_pieces)[self.index]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutionPlan:
    """How a transformer will run.

    Whoever changes how a network runs (`placement`, `parallel`) returns what it did, and whoever assembles
    the model writes it here. Nothing is found out by looking at the network.

    Attributes:
        absorb_audio: multiply speech into the projections around it, where that saves work.
        max_absorbed_bytes: of one block's products of a chunk. Where they need more, each block computes its
            own in every step, which takes a little more work and the memory of one block.
        offloaded: places in the stack of the blocks whose weights are on the device only while the block
            runs. Nothing can be computed ahead for these.
        tokens: which tokens of a window the blocks compute.
    """

    absorb_audio: bool = True
    max_absorbed_bytes: int = 1 << 26
    offloaded: frozenset[int] = frozenset()
    tokens: TokenShare = TokenShare()
