"""The execution plan of a transformer: what may be computed ahead of its steps."""

from dataclasses import dataclass

from livetalk.ops.partition import IndexRange, split_evenly


@dataclass(frozen=True, slots=True)
class TokenShare:
    """The shard of a window's tokens that the blocks compute: `index` of `num_shards` nearly equal ranges."""

    index: int = 0
    num_shards: int = 1

    def of(self, num_tokens: int) -> IndexRange:
        """Return the range within a window of `num_tokens`."""
        return split_evenly(num_tokens, self.num_shards)[self.index]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutionPlan:
    """How a transformer runs, as stated by the code that modifies it (`placement`, `parallel`)."""

    absorb_audio: bool = True  # multiply speech into the adjacent projections if that saves operations
    # Limit for one block's stored products of a chunk. Above it each block computes them in every step, which
    # takes more time but the memory of one block only.
    max_absorbed_bytes: int = 1 << 26
    # Blocks whose weights are on the device only while they run: nothing can be computed ahead for them.
    offloaded: frozenset[int] = frozenset()
    tokens: TokenShare = TokenShare()  # the shard of a window's tokens that this rank computes
