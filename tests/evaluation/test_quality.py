"""PSNR and sharpness of small pictures."""

import numpy as np
import pytest

from livetalk.evaluation.quality import measure_psnr, measure_sharpness


def picture(seed: int = 0) -> np.ndarray:
    """Return a noisy picture [32, 40, 3]."""
    return np.random.default_rng(seed).integers(0, 200, (32, 40, 3)).astype(np.uint8)


def test_psnr_of_a_known_error() -> None:
    frame = picture()
    assert measure_psnr(frame, frame + 10) == pytest.approx(20 * np.log10(25.5))
    assert measure_psnr(frame, frame) == np.inf


def test_psnr_counts_the_box_only() -> None:
    frame, other = picture(), picture()
    other[:, 20:] += 10
    assert measure_psnr(frame, other, (0, 0, 20, 32)) == np.inf
    assert measure_psnr(frame, other, (20, 0, 40, 32)) == pytest.approx(20 * np.log10(25.5))


def test_blur_lowers_sharpness() -> None:
    frame = picture()
    wide = np.pad(frame.astype(float), ((1, 1), (1, 1), (0, 0)), mode="edge")
    blurred = sum(wide[y : y + 32, x : x + 40] for y in range(3) for x in range(3)) / 9
    assert measure_sharpness(blurred.astype(np.uint8)) < 0.2 * measure_sharpness(frame)


def test_flat_picture_is_not_sharp_and_a_point_is_unknown() -> None:
    assert measure_sharpness(np.full((8, 8, 3), 90, dtype=np.uint8)) == pytest.approx(0)
    assert np.isnan(measure_sharpness(picture(), (0, 0, 2, 2)))
