"""Mouth opening during silence."""

import numpy as np
from numpy.typing import NDArray

from livetalk.evaluation.clip import Clip
from livetalk.evaluation.measure import Column, Measure, Value
from livetalk.evaluation.statistics import percentile


def score_silence(opening: NDArray[np.float64], silence: NDArray[np.bool_]) -> float:
    """Return the 95th percentile of the openings [F] during silence [F]; NaN without silence."""
    # Not the maximum, which a single wrong landmark would determine.
    return percentile(opening[silence & np.isfinite(opening)], 95)


def measure_silence(clip: Clip) -> dict[str, float]:
    """Score the relative and the absolute opening."""
    return {
        "silence_opening": score_silence(clip.relative_lips, clip.silence),
        "silence_lips": score_silence(clip.track.lips, clip.silence),
    }


MEASURE = Measure(
    name="silence",
    values=(
        Value(
            name="silence_opening",
            unit="share",
            meaning="relative opening that 95 % of the silent frames stay under",
            good="under 0.1",
            column=Column("silence", ".2f"),
        ),
        Value(
            name="silence_lips",
            unit="mouth widths",
            meaning="the same as lip opening, for clips that have no range",
            good="under 0.03",
        ),
    ),
    find=measure_silence,
)
