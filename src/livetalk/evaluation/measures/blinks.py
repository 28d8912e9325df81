"""Frequency of blinks."""

import numpy as np
from numpy.typing import NDArray

from livetalk.evaluation.clip import Clip
from livetalk.evaluation.measure import Column, Measure, Value
from livetalk.evaluation.signals import EYES
from livetalk.evaluation.voice import find_runs


def count_blinks(eye_opening: NDArray[np.float64], fps: float) -> int:
    """Count blinks: dips below 60 % of the usual eye opening ([F], NaN if unknown) of at most 0.5 s."""
    known = eye_opening[np.isfinite(eye_opening)]
    if not len(known):
        return 0
    # The 75th percentile is the open eye, even in a clip with many blinks.
    shut = np.nan_to_num(eye_opening, nan=np.inf) < 0.6 * np.percentile(known, 75)
    # A longer dip is a closed eye. Human blinks take 0.1 to 0.4 s.
    return sum(end - start <= 0.5 * fps for start, end in find_runs(np.asarray(shut)))


def measure_blinks(clip: Clip) -> dict[str, float]:
    """Count the blinks per minute of video."""
    track = clip.track
    num_blinks = count_blinks(track.signals[EYES], track.fps)
    return {"blinks_per_minute": num_blinks / track.num_frames * track.fps * 60}


MEASURE = Measure(
    name="blinks",
    values=(
        Value(
            name="blinks_per_minute",
            unit="per minute",
            meaning="dips of the eye opening under 60 % of its usual value, of at most half a second",
            good="8 to 25",
            column=Column("blinks", ".0f"),
        ),
    ),
    find=measure_blinks,
    signals=(EYES,),
)
