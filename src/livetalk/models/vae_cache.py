"""Cache of a causal network between two calls, as a value."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class VAECache:
    """The last input frames of each temporal convolution.

    Attributes:
        histories: one entry per temporal convolution, `[B, C, n, H, W]`; None before its first frame.
    """

    histories: tuple[Tensor | None, ...]
    started: bool = False  # whether the first frame of the video has been processed

    @classmethod
    def create(cls, num_slots: int) -> "VAECache":
        return cls((None,) * num_slots)

    def reset(self) -> "VAECache":
        return VAECache.create(len(self.histories))

    @property
    def num_bytes(self) -> int:
        return sum(history.nbytes for history in self.histories if history is not None)


class CachePass:
    """One pass through a network: reads the old histories, collects the new ones."""

    def __init__(self, cache: VAECache) -> None:
        self.started = cache.started
        self._old = cache.histories
        self._new: list[Tensor | None] = list(cache.histories)

    def history(self, slot: int) -> Tensor | None:
        return self._old[slot]

    def keep(self, slot: int, frames: Tensor) -> None:
        # A copy, so that the activations that `frames` is a view of can be freed.
        self._new[slot] = frames.clone()

    def finish(self) -> VAECache:
        """Return the cache for the next call."""
        return VAECache(tuple(self._new), started=True)
