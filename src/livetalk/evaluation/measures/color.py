"""Colour drift of the frame."""

import numpy as np

from livetalk.evaluation.clip import Clip
from livetalk.evaluation.measure import Measure, Value
from livetalk.evaluation.signals import Signal

COLORS = Signal("mean colour", lambda view: view.frame.mean(axis=(0, 1), dtype=np.float64))
"""[3], mean of the whole frame, levels 0..255."""


def measure_color(clip: Clip) -> dict[str, float]:
    """Compare the last second with the first."""
    colors, second = clip.track.signals[COLORS], max(1, round(clip.track.fps))
    change = colors[-second:].mean(axis=0) - colors[:second].mean(axis=0)
    return {"color_change": float(np.abs(change).max())}


MEASURE = Measure(
    name="colour",
    values=(
        Value(
            name="color_change",
            unit="levels 0..255",
            meaning="largest change of a mean colour between the first and the last second",
            good="0",
        ),
    ),
    find=measure_color,
    signals=(COLORS,),
)
