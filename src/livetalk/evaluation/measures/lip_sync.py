"""Correlation and lag of the lip opening against the truth."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from livetalk.evaluation.clip import Clip, Need
from livetalk.evaluation.measure import Column, Measure, Value
from livetalk.evaluation.statistics import correlate

MAX_LAG_FRAMES = 6


@dataclass(frozen=True, slots=True)
class SyncScore:
    """Agreement of two openings."""

    correlation: float  # Pearson, -1..1, at lag 0; NaN with too few frames or no movement
    best_lag: int  # frames; positive if the measured mouth is late
    best_correlation: float  # at that lag


def score_sync(
    measured: NDArray[np.float64], truth: NDArray[np.float64], max_lag: int = MAX_LAG_FRAMES
) -> SyncScore:
    """Correlate a measured opening [F] (NaN if unknown) with the truth [F'] at lags of up to `max_lag`."""
    length = min(len(measured), len(truth))
    measured, truth = measured[:length], truth[:length]
    scores = {}
    # Ordered by distance from 0, so that a tie goes to the smallest lag.
    for lag in sorted(range(-max_lag, max_lag + 1), key=abs):
        late, early = max(lag, 0), max(-lag, 0)
        scores[lag] = correlate(measured[late : length - early], truth[early : length - late])
    best = max(scores, key=lambda lag: scores[lag] if np.isfinite(scores[lag]) else -2.0)
    return SyncScore(correlation=scores[0], best_lag=best, best_correlation=scores[best])


def measure_lip_sync(clip: Clip) -> dict[str, float]:
    """Compare the lips with the truth, as well as the reference's lips if the truth is exact."""
    sync = score_sync(clip.track.lips, clip.truth)
    possible = float("nan")
    # Without an exact truth, the reference's lips are the truth themselves.
    if clip.provides(Need.REFERENCE) and clip.inputs.truth is not None:
        possible = correlate(clip.reference.lips, clip.truth)
    return {
        "correlation": sync.correlation,
        "best_lag": float(sync.best_lag),
        "best_correlation": sync.best_correlation,
        "reference_correlation": possible,
        "relative_correlation": sync.correlation / possible,
    }


MEASURE = Measure(
    name="lip sync",
    values=(
        Value(
            name="correlation",
            unit="-1..1",
            meaning="Pearson, lip opening against the truth, at lag 0",
            good="near that of the truth's own rendering",
            column=Column("corr", ".2f"),
        ),
        Value(
            name="best_lag",
            unit="frames",
            meaning="the lag in -6..6 with the highest correlation; positive: the mouth is late",
            good="0",
            column=Column("lag", "+.0f"),
        ),
        Value(name="best_correlation", unit="-1..1", meaning="the correlation at that lag"),
        Value(
            name="reference_correlation",
            unit="-1..1",
            meaning="the same of the reference video's lips, where the truth is given",
            good="the ceiling",
        ),
        Value(
            name="relative_correlation",
            unit="ratio",
            meaning="`correlation` / `reference_correlation`",
            good="near 1",
            column=Column("/truth", ".2f"),
        ),
    ),
    find=measure_lip_sync,
    needs=frozenset({Need.TRUTH}),
)
