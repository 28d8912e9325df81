"""Sound of any block size into the pieces that the engine takes, one chunk after the other."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from livetalk.streaming.geometry import ChunkGeometry


@dataclass(frozen=True, slots=True)
class AudioPiece:
    """The sound that one step of the engine takes.

    Attributes:
        samples: [chunk_samples], float32; silence where the sound has ended.
        num_frames: frames of the step's chunk that the sound covers; fewer than a chunk at its end.
    """

    samples: NDArray[np.float32]
    num_frames: int


class AudioFeed:
    """Cuts a stream of sound into pieces, holding back only the look-ahead.

    With a look-ahead the engine hears the start of a chunk's successor before it answers: the feed first
    gives that much sound as `lead`, and every piece after it is that much later than the chunk it is for.
    """

    def __init__(
        self, blocks: Iterable[NDArray[np.float32]], geometry: ChunkGeometry, lookahead_frames: int
    ) -> None:
        """Read the lead.

        Args:
            blocks: pieces [n] of any length, float32, -1..1, at the geometry's sample rate.
            geometry: timeline of the stream.
            lookahead_frames: frames of sound after a chunk that the engine hears.
        """
        self._blocks = iter(blocks)
        self._rest = np.zeros(0, dtype=np.float32)
        self._geometry = geometry
        self._num_received = 0
        self.lead = self._take(lookahead_frames * geometry.samples_per_frame)

    def __iter__(self) -> Iterator[AudioPiece]:
        """Yield pieces until the sound ends; none for an empty sound."""
        geometry = self._geometry
        position = 0
        while True:
            samples = self._take(geometry.chunk_samples)
            covered = self._num_received - position
            if covered <= 0:
                return
            padding = geometry.chunk_samples - samples.shape[0]
            num_frames = min(geometry.num_frames(covered), geometry.chunk_frames)
            yield AudioPiece(np.pad(samples, (0, padding)), num_frames)
            position += geometry.chunk_samples

    def _take(self, num_samples: int) -> NDArray[np.float32]:
        """Return the next samples, fewer only when the sound has ended."""
        parts = [self._rest]
        available = self._rest.shape[0]
        while available < num_samples:
            block = next(self._blocks, None)
            if block is None:
                break
            if block.ndim != 1:
                raise ValueError(f"sound must come as [samples], one channel, not {block.shape}")
            parts.append(block.astype(np.float32, copy=False))
            available += block.shape[0]
        joined = np.concatenate(parts)
        taken, self._rest = joined[:num_samples], joined[num_samples:]
        self._num_received += taken.shape[0]
        return taken
