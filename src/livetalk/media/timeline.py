"""Audio laid out by the time stamps of its container: silence in gaps, overlaps once.

Shapes: C channels · n samples of a block.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

TOLERANCE_SECONDS = Fraction(1, 50)
"""Time stamps are rounded and jitter by less than this, half a video frame."""

_LONGEST_GAP_SECONDS = 600
_LONGEST_OVERLAP_SECONDS = 1
"""A larger jump is a defect or a new start of the clock, not a gap or an overlap."""

_MOST_SILENCE = 20
"""Silence per sound. Speech codecs mark a pause by one packet in 400 ms, a twentieth of its length."""


@dataclass(frozen=True, slots=True, eq=False)
class TimedBlock:
    """Decoded audio.

    Attributes:
        samples: [C, n], float32, -1..1.
        seconds: time stamp of the first sample; None if it directly follows the block before.
    """

    samples: NDArray[np.float32]
    seconds: Fraction | None


class SampleClock:
    """Compares time stamps with the samples so far.

    Attributes:
        position: samples from the start of the recording to the end of the last block.
        num_decoded: samples of all blocks.
    """

    def __init__(self, sample_rate: int, origin: Fraction | None) -> None:
        """Start at time stamp `origin` (None: that of the first block), in seconds."""
        self.sample_rate = sample_rate
        self._origin = origin
        self._silence = self._dropped = 0
        self.position = self.num_decoded = 0

    @property
    def is_plausible(self) -> bool:
        """Whether the time stamps so far drop at most half of the audio and add a bounded silence."""
        most_silence = _LONGEST_GAP_SECONDS * self.sample_rate + _MOST_SILENCE * self.num_decoded
        return 2 * self._dropped <= self.num_decoded and self._silence <= most_silence

    def place(self, seconds: Fraction | None, num_samples: int) -> int:
        """Advance by a block and return the samples of silence before it.

        A negative result is the number of samples, at most all, to drop from the start of the block.
        """
        correction = max(self._find_error(seconds), -num_samples)
        self._silence += max(correction, 0)
        self._dropped += max(-correction, 0)
        self.num_decoded += num_samples
        self.position += correction + num_samples
        return correction

    def _find_error(self, seconds: Fraction | None) -> int:
        """Return the samples by which a block is late, 0 within the tolerance."""
        if seconds is None:
            return 0
        if self._origin is None:
            self._origin = seconds
        late = seconds - self._origin - Fraction(self.position, self.sample_rate)
        if not -_LONGEST_OVERLAP_SECONDS <= late <= _LONGEST_GAP_SECONDS:
            self._origin += late
            return 0
        return round(late * self.sample_rate) if abs(late) > TOLERANCE_SECONDS else 0


def lay_out(blocks: Iterable[TimedBlock], clock: SampleClock) -> Iterator[NDArray[np.float32]]:
    """Yield blocks [C, n] of audio and silence, without gaps and overlaps."""
    for block in blocks:
        correction = clock.place(block.seconds, block.samples.shape[1])
        yield from _silence(block.samples.shape[0], correction, clock.sample_rate)
        yield block.samples[:, max(-correction, 0) :]


def _silence(num_channels: int, num_samples: int, most: int) -> Iterator[NDArray[np.float32]]:
    """Yield silence in blocks of at most `most` samples, so that memory does not depend on its length."""
    for start in range(0, num_samples, most):
        yield np.zeros((num_channels, min(most, num_samples - start)), dtype=np.float32)
