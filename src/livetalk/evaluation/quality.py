"""How a picture looks: sharpness, and closeness to a picture that shows what it should show."""

import numpy as np
from numpy.typing import NDArray

from livetalk.evaluation.landmarks import Box

_LUMA = np.array([0.299, 0.587, 0.114])


def measure_psnr(frame: NDArray[np.uint8], truth: NDArray[np.uint8], box: Box | None = None) -> float:
    """Return the peak signal-to-noise ratio of a frame in dB; infinite for equal pictures.

    Args:
        frame: [H, W, 3], uint8.
        truth: [H, W, 3], uint8.
        box: only these pixels count; None takes all.
    """
    error = _cut(frame, box).astype(np.float64) - _cut(truth, box)
    mean_square = float(np.mean(error**2))
    return float(10 * np.log10(255.0**2 / mean_square)) if mean_square > 0 else float("inf")


def measure_sharpness(frame: NDArray[np.uint8], box: Box | None = None) -> float:
    """Return the variance of the Laplacian of the luma: more is sharper.

    Compare only pictures of one size and one motive, such as a generated face with the rendered one.

    Args:
        frame: [H, W, 3], uint8, RGB.
        box: only these pixels count; None takes all.

    Returns:
        Squared levels 0..255; NaN for a box of less than 3 x 3 pixels.
    """
    luma = _cut(frame, box) @ _LUMA
    if min(luma.shape) < 3:
        return float("nan")
    centre = luma[1:-1, 1:-1]
    laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * centre
    return float(laplacian.var())


def _cut(frame: NDArray[np.uint8], box: Box | None) -> NDArray[np.uint8]:
    if box is None:
        return frame
    left, top, right, bottom = box
    return frame[top:bottom, left:right]
