"""Pixel error of the face against the reference video."""

import numpy as np
from numpy.typing import NDArray

from livetalk.evaluation.clip import Clip, Need
from livetalk.evaluation.landmarks import Box, cut_box
from livetalk.evaluation.measure import Column, Measure, Value
from livetalk.evaluation.signals import FrameView, Signal
from livetalk.evaluation.statistics import median


def measure_psnr(frame: NDArray[np.uint8], truth: NDArray[np.uint8], box: Box | None = None) -> float:
    """Return the PSNR in dB of two frames [H, W, 3], uint8, inside a box; infinite for equal frames."""
    error = cut_box(frame, box).astype(np.float64) - cut_box(truth, box)
    mean_square = float(np.mean(error**2))
    return float(10 * np.log10(255.0**2 / mean_square)) if mean_square > 0 else float("inf")


def _read(view: FrameView) -> float:
    if view.reference is None or view.face is None:
        return float("nan")
    return measure_psnr(view.frame, view.reference, view.face)


FACE_PSNR = Signal("PSNR of the face", _read)
"""dB in the face box against the reference frame; NaN without a face or such a frame."""


def measure_face_psnr(clip: Clip) -> dict[str, float]:
    """Compute the median over the frames."""
    return {"face_psnr": median(clip.track.signals[FACE_PSNR])}


MEASURE = Measure(
    name="PSNR of the face",
    values=(
        Value(
            name="face_psnr",
            unit="dB",
            meaning="in the face box against the frame at the same time in the reference video, median",
            good="for reconstructions only",
            column=Column("psnr", ".1f"),
        ),
    ),
    find=measure_face_psnr,
    needs=frozenset({Need.REFERENCE}),
    signals=(FACE_PSNR,),
)
