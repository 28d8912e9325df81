"""Sharpness of the face and its change over time."""

import numpy as np
from numpy.typing import NDArray

from livetalk.evaluation.clip import Clip, Need
from livetalk.evaluation.landmarks import Box, cut_box
from livetalk.evaluation.measure import Column, Measure, Value
from livetalk.evaluation.signals import FrameView, Signal
from livetalk.evaluation.statistics import median, slope_per_minute

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def measure_laplacian(frame: NDArray[np.uint8], box: Box | None = None) -> float:
    """Return the variance of the Laplacian of the luma, in squared levels 0..255; larger is sharper.

    Values are comparable only for the same size and subject. `frame` is [H, W, 3], uint8, RGB; NaN for a box
    of less than 3 x 3 pixels.
    """
    luma = cut_box(frame, box) @ _LUMA
    if min(luma.shape) < 3:
        return float("nan")
    centre = luma[1:-1, 1:-1]
    laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * centre
    return float(laplacian.var())


def _read(view: FrameView) -> float:
    return measure_laplacian(view.frame, view.face) if view.face is not None else float("nan")


SHARPNESS = Signal("sharpness", _read)
"""`measure_laplacian` of the face box; NaN without a face."""


def measure_sharpness(clip: Clip) -> dict[str, float]:
    """Compute median and slope of the video, and the median of the reference video."""
    track, reference = clip.track, float("nan")
    if clip.provides(Need.REFERENCE):
        reference = median(clip.reference.signals[SHARPNESS])
    seconds = np.arange(track.num_frames) / track.fps
    return {
        "sharpness": median(track.signals[SHARPNESS]),
        "reference_sharpness": reference,
        "sharpness_drift_per_minute": slope_per_minute(track.signals[SHARPNESS], seconds),
    }


MEASURE = Measure(
    name="sharpness",
    values=(
        Value(
            name="sharpness",
            unit="squared levels",
            meaning="variance of the Laplacian in the face box; comparable for one motive only",
            good="near the reference",
            column=Column("sharp", ".0f"),
        ),
        Value(name="reference_sharpness", unit="squared levels", meaning="the same of the reference video"),
        Value(
            name="sharpness_drift_per_minute",
            unit="squared levels per minute",
            meaning="slope of the sharpness; only for clips of 20 s and more",
            good="0",
        ),
    ),
    find=measure_sharpness,
    signals=(SHARPNESS,),
)
