"""Sharpness of small pictures."""

import numpy as np
import pytest

from livetalk.evaluation.measures.sharpness import measure_laplacian


def picture(seed: int = 0) -> np.ndarray:
    """Return a noisy picture [32, 40, 3]."""
    return np.random.default_rng(seed).integers(0, 200, (32, 40, 3)).astype(np.uint8)


def test_blur_lowers_sharpness() -> None:
    frame = picture()
    wide = np.pad(frame.astype(float), ((1, 1), (1, 1), (0, 0)), mode="edge")
    blurred = sum(wide[y : y + 32, x : x + 40] for y in range(3) for x in range(3)) / 9
    assert measure_laplacian(blurred.astype(np.uint8)) < 0.2 * measure_laplacian(frame)


def test_flat_picture_is_not_sharp_and_a_point_is_unknown() -> None:
    assert measure_laplacian(np.full((8, 8, 3), 90, dtype=np.uint8)) == pytest.approx(0)
    assert np.isnan(measure_laplacian(picture(), (0, 0, 2, 2)))
