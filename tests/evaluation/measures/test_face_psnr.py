"""PSNR of small pictures."""

import numpy as np
import pytest

from livetalk.evaluation.measures.face_psnr import measure_psnr


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
