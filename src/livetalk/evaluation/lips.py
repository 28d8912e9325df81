"""The range of one mouth: which lip opening counts as closed and which as wide open."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from livetalk.evaluation.statistics import percentile


@dataclass(frozen=True, slots=True)
class OpeningRange:
    """What counts as closed and as wide open for one mouth.

    Attributes:
        closed: lip opening, 2nd percentile of all frames: silences and closures of the lips.
        wide: lip opening, 95th percentile of the frames with speech.
    """

    closed: float
    wide: float

    def relative(self, opening: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map openings [F] so that 0 is closed and 1 is wide; NaN when the mouth never moved."""
        span = self.wide - self.closed
        return (opening - self.closed) / (span if span > 0 else np.nan)


def measure_range(opening: NDArray[np.float64], speech: NDArray[np.bool_]) -> OpeningRange:
    """Find what closed and wide open mean in one clip.

    Args:
        opening: [F], lip opening, NaN where unknown.
        speech: [F], whether the voice is heard.

    Returns:
        The range; NaN where there is no frame to tell: a silent clip has no wide opening.
    """
    known = np.isfinite(opening)
    return OpeningRange(closed=percentile(opening[known], 2), wide=percentile(opening[known & speech], 95))
