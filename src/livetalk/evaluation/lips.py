"""The range of lip openings of one mouth, from closed to wide open."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from livetalk.evaluation.statistics import percentile


@dataclass(frozen=True, slots=True)
class OpeningRange:
    """The lip openings of one clip that count as closed and as wide open."""

    closed: float  # 2nd percentile of all frames, which covers silences and closures of the lips
    wide: float  # 95th percentile of the frames with speech

    def relative(self, opening: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map openings [F] so that 0 is closed and 1 is wide; NaN if the mouth never moved."""
        span = self.wide - self.closed
        return (opening - self.closed) / (span if span > 0 else np.nan)


def measure_range(opening: NDArray[np.float64], speech: NDArray[np.bool_]) -> OpeningRange:
    """Find the range of lip openings [F], NaN where unknown, given the frames [F] with speech.

    A limit is NaN if no frame determines it: a silent clip has no wide opening.
    """
    known = np.isfinite(opening)
    return OpeningRange(closed=percentile(opening[known], 2), wide=percentile(opening[known & speech], 95))
