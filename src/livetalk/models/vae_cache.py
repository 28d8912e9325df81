"""What a causal network remembers between two pieces of a video, as a value."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class VAECache:
    """The last frames that each temporal convolution saw, and whether the first frame has passed.

    Attributes:
        histories: one entry per temporal convolution, `[B, C, n, H, W]`; None before it saw a frame.
        started: false until the piece with the first frame has been through.
    """

    histories: tuple[Tensor | None, ...]
    started: bool = False

    @classmethod
    def create(cls, num_slots: int) -> "VAECache":
        """Return the cache of a network with `num_slots` temporal convolutions before its first frame."""
        return cls((None,) * num_slots)

    def reset(self) -> "VAECache":
        """Return the cache of the same network before its first frame."""
        return VAECache.create(len(self.histories))

    @property
    def num_bytes(self) -> int:
        """Memory that the histories hold, in bytes."""
        return sum(history.nbytes for history in self.histories if history is not None)


class CachePass:
    """One pass of one piece through a network: reads the old histories, collects the new ones."""

    def __init__(self, cache: VAECache) -> None:
        """Start a pass that continues `cache`."""
        self.started = cache.started
        self._old = cache.histories
        self._new: list[Tensor | None] = list(cache.histories)

    def history(self, slot: int) -> Tensor | None:
        """Return what the convolution in `slot` remembers."""
        return self._old[slot]

    def keep(self, slot: int, frames: Tensor) -> None:
        """Remember `frames` for `slot`: copied, so that the activations they are cut from can be freed."""
        self._new[slot] = frames.clone()

    def finish(self) -> VAECache:
        """Return the cache for the next piece."""
        return VAECache(tuple(self._new), started=True)
